from pathlib import Path
from typing import Any

import pytest
from support import feed_values

from recap.config.file.load import config_of
from recap.errors import ConfigError


def values(**model: Any) -> dict[str, Any]:
    found = feed_values(Path("feed"), Path("run"))
    found["model"] |= model
    return found


def said_of(found: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        config_of(found)
    return str(caught.value)


ESMM = {"kind": "esmm", "chain": ["like", "share"]}


@pytest.mark.parametrize(
    ("chain", "expected"),
    [
        (["like", "shrae"], "model.cascade.chain.1: 'shrae' is no task of this configuration. Known: like, share. Did"),
        (["like", "share", "like"], "model.cascade.chain.2: 'like' stands in the chain twice; each task has one place"),
        (
            ["like"],
            "model.cascade.chain: a chain needs at least two tasks, found 'like' alone; add one, or drop cascade",
        ),
        ([], "model.cascade.chain: must not be empty"),
    ],
)
@pytest.mark.parametrize("rest", [{"kind": "esmm"}, {"kind": "aitm", "width": 4}])
def test_a_chain_is_of_two_tasks_or_more_each_once(rest: dict[str, Any], chain: list[str], expected: str) -> None:
    assert expected in said_of(values(cascade={**rest, "chain": chain}))


def test_esmm_refuses_calibration_of_its_tasks_and_says_what_to_do() -> None:
    found = values(cascade=ESMM)
    found["train_data"]["tasks"] = {"like": {}, "share": {"neg_downsampling_rate": 0.1}}
    said = said_of(found)
    assert "model.cascade.chain.1: esmm multiplies the probability of 'share', which is of rows that " in said
    assert "set train_data.sampling_correction: weights" in said
    assert "chain.0" not in said
    found["train_data"]["sampling_correction"] = "weights"
    assert config_of(found).model.cascade is not None


def test_esmm_takes_rates_that_calibration_has_nothing_to_do_about() -> None:
    found = values(cascade=ESMM)
    found["train_data"]["tasks"]["share"] = {"neg_downsampling_rate": 0.1, "pos_downsampling_rate": 0.1}
    config_of(found)
    found["train_data"]["tasks"]["share"] = {"neg_downsampling_rate": 0.1}
    found["model"]["cascade"] = {"kind": "aitm", "chain": ["like", "share"], "width": 4}
    config_of(found)


@pytest.mark.parametrize("kind", ["mmoe", "cgc", "ple"])
def test_experts_need_a_form(kind: str) -> None:
    sizes = {"num_experts": 2} if kind == "mmoe" else {"shared_experts": 1, "task_experts": 1}
    said = said_of(values(sharing={"kind": kind, **sizes}, backbone=None))
    assert f"model.sharing: {kind} needs model.backbone; add one, or use share_none" in said


@pytest.mark.parametrize("kind", ["cgc", "ple"])
def test_no_task_may_be_called_as_the_shared_experts_are(kind: str) -> None:
    found = values(sharing={"kind": kind, "shared_experts": 1, "task_experts": 1})
    found["model"]["tasks"]["shared"] = found["model"]["tasks"]["like"]
    found["train_data"]["tasks"]["shared"] = {}
    assert f"model.tasks.shared: 'shared' is what {kind} calls the experts of all tasks; rename" in said_of(found)


@pytest.mark.parametrize(
    ("sharing", "expected"),
    [
        ({"kind": "mmoe", "num_experts": 0}, "num_experts: must be above 0, found 0"),
        ({"kind": "cgc", "shared_experts": 1, "task_experts": 0}, "task_experts: must be above 0, found 0"),
        ({"kind": "ple", "shared_experts": 1, "task_experts": 1, "levels": 1}, "levels: must be at least 2, found 1"),
        ({"kind": "cgc", "shared_experts": 1, "task_experts": 1, "levels": 2}, "'levels' is unknown. Known: "),
    ],
)
def test_experts_are_counted_from_one_and_levels_from_two(sharing: dict[str, Any], expected: str) -> None:
    assert expected in said_of(values(sharing=sharing))
