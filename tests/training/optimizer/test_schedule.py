import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from recap.config.base import all_problems
from recap.config.optimizer import LearningRateConfig
from recap.training.optimizer.schedule import learning_rate

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "scalars.json").read_text())["learning_rates"]


def read(value: dict[str, Any]) -> LearningRateConfig:
    return TypeAdapter(LearningRateConfig).validate_python(value)


@pytest.mark.parametrize("name", GOLDEN)
def test_schedules_agree_with_the_published_ones(name: str) -> None:
    ((kind, fields),) = GOLDEN[name]["config"].items()
    config = read({"kind": kind, **(fields if isinstance(fields, dict) else {"learning_rate": fields})})
    for step, rate in GOLDEN[name]["values"].items():
        assert learning_rate(config, int(step), last_step=1) == pytest.approx(rate, rel=1e-6, abs=1e-12), step


@given(st.integers(1, 1000), st.integers(1, 1000), st.integers(0, 3000), st.floats(0, 1), st.floats(0, 1))
def test_a_cosine_stays_between_its_two_rates(ramp: int, fall: int, step: int, rate: float, final: float) -> None:
    config = read(
        {
            "kind": "linear_ramp_to_cosine",
            "learning_rate": rate,
            "final_learning_rate": final,
            "num_ramp_steps": ramp,
            "final_num_steps": ramp + fall,
        }
    )
    actual = learning_rate(config, step, last_step=1)
    assert min(rate, final, 0 if step < ramp else 1) - 1e-12 <= actual <= max(rate, final) + 1e-12


@given(st.integers(1, 100), st.integers(1, 300))
def test_a_cosine_without_an_end_ends_with_the_run(ramp: int, last_step: int) -> None:
    cosine = {"kind": "linear_ramp_to_cosine", "learning_rate": 0.1, "final_learning_rate": 0.01}
    open_end = read(cosine | {"num_ramp_steps": ramp})
    rates = [learning_rate(open_end, step, last_step) for step in range(last_step + 1)]
    if ramp < last_step:
        stated = read(cosine | {"num_ramp_steps": ramp, "final_num_steps": last_step})
        assert rates == [learning_rate(stated, step, last_step=1) for step in range(last_step + 1)]
        assert rates[-1] == pytest.approx(0.01)
    else:  # a short trial run that ends in its ramp
        assert rates == pytest.approx([0.1 * step / ramp for step in range(last_step + 1)])


def test_a_cosine_must_end_after_its_ramp() -> None:
    cosine = {"kind": "linear_ramp_to_cosine", "learning_rate": 0.1, "final_learning_rate": 0.0}
    schedule = read(cosine | {"num_ramp_steps": 10, "final_num_steps": 10})
    assert list(all_problems(schedule)) == [(("final_num_steps",), "must be above num_ramp_steps, 10; found 10")]


@pytest.mark.parametrize(
    ("boundaries", "values", "path", "message"),
    [
        ([1, 2], [0.1, 0.2], "learning_rate_values", "2 learning_rate_boundaries need 3 values, found 2"),
        ([2, 1], [0.1, 0.2, 0.3], "learning_rate_boundaries", "must be ascending, found [2, 1]"),
    ],
)
def test_piecewise_rates_must_fit_their_boundaries(
    boundaries: list[int], values: list[float], path: str, message: str
) -> None:
    pieces = {"learning_rate_boundaries": boundaries, "learning_rate_values": values}
    assert list(all_problems(read({"kind": "piecewise_constant", **pieces}))) == [((path,), message)]
