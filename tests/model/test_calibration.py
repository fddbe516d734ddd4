"""From probabilities as sampled to those of the population: the correction of rates, and what was fitted."""

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from model.rankers import make_batch, make_config, make_fitted, make_ranker
from model.test_directory import written
from support import feed_config, feed_values

from recap import storage
from recap.config.file.load import config_of
from recap.config.recap import RecapConfig
from recap.errors import CheckpointError, RunError
from recap.evaluation.calibrate.fit import piecewise, sigmoid
from recap.inference.predictor import Predictor
from recap.model.calibration import (
    AffineMap,
    Calibration,
    FittedCalibration,
    FittedMaps,
    FittedTask,
    IsotonicMap,
    Offset,
    logits_of,
    sampling_ratios,
)
from recap.model.directory import CALIBRATION, copy_model, open_model, read_calibration
from recap.model.scorer import Scorer
from recap.storage import add_file, remove_file, verify

AFFINE = AffineMap(slope=0.5, intercept=-1.0)
ISOTONIC = IsotonicMap(knots=(-3.0, -1.0, 2.0), values=(-4.0, -2.5, 1.0))
CONFIG = make_config("mlp-share_all")
"""With tasks `like` and `share`, and the discrete features `hour` and `language`."""


def fitted(config: RecapConfig = CONFIG, by: str | None = None, **tasks: FittedTask) -> FittedCalibration:
    return FittedCalibration(
        split="validation", data=["x"], rows=9, sampling=sampling_ratios(config), by=by, tasks=tasks
    )


def task(kind: AffineMap | IsotonicMap, *offsets: Offset) -> FittedTask:
    return FittedTask(map=kind, positives=99, offsets=offsets)


def test_maps_are_lines_on_logits_by_task_name_and_other_tasks_keep_their_bits() -> None:
    probabilities = torch.rand(500, 2, generator=torch.Generator().manual_seed(0))
    codes = torch.zeros(500, 2, dtype=torch.int64)
    logits = logits_of(probabilities).numpy()
    for kind, expected in (
        (AFFINE, sigmoid(0.5 * logits - 1)),
        (ISOTONIC, sigmoid(piecewise(logits, np.array(ISOTONIC.knots), np.array(ISOTONIC.values)))),
    ):
        mapped = FittedMaps(fitted(share=task(kind)), CONFIG)(probabilities, codes)
        np.testing.assert_allclose(mapped[:, 1].numpy(), expected[:, 1], rtol=1e-6)
        assert torch.equal(mapped[:, 0], probabilities[:, 0])
    both = FittedMaps(fitted(like=task(AFFINE), share=task(ISOTONIC)), CONFIG)(probabilities, codes)
    np.testing.assert_allclose(both[:, 0].numpy(), sigmoid(0.5 * logits - 1)[:, 0], rtol=1e-6)
    assert torch.equal(both[:, 1], mapped[:, 1])


@given(st.floats(0, 1, width=32), st.floats(0, 1, width=32))
def test_maps_keep_the_order_of_all_probabilities_from_0_to_1(one: float, other: float) -> None:
    low, high = sorted([one, other])
    maps = FittedMaps(fitted(like=task(AFFINE), share=task(ISOTONIC)), CONFIG)
    mapped = maps(torch.tensor([[low, low], [high, high]]), torch.zeros(2, 2, dtype=torch.int64))
    assert torch.isfinite(mapped).all()
    assert (mapped[0] <= mapped[1]).all()


def test_offsets_are_added_to_the_logits_of_their_value() -> None:
    maps = FittedMaps(
        fitted(
            by="language",
            like=task(AFFINE, Offset(value="ja", code=2, offset=0.7, positives=50)),
            share=task(AFFINE, Offset(value="en", code=1, offset=-0.3, positives=50)),
        ),
        CONFIG,
    )
    codes = torch.tensor([[5, 0], [5, 1], [5, 2], [5, 9]])
    shifts = logits_of(maps(torch.full((4, 2), 0.2), codes)) - (0.5 * logits_of(torch.tensor(0.2)) - 1)
    expected = torch.tensor([[0, 0], [0, -0.3], [0.7, 0], [0, 0]], dtype=torch.float64)
    np.testing.assert_allclose(shifts.numpy(), expected.numpy(), atol=1e-6, rtol=0)


def test_a_scorer_corrects_the_sampling_then_applies_the_fit_then_scores() -> None:
    config = make_config("mlp-share_all")
    config.train_data.tasks["like"] = config.train_data.tasks["like"].model_copy(update={"neg_downsampling_rate": 0.1})
    ranker, batch = make_ranker(config).eval(), make_batch(config, rows=30)
    plain = Scorer.of(config, ranker)(batch)
    scores = Scorer.of(config, ranker, make_fitted(config))(batch)
    assert torch.equal(scores.probabilities, plain.probabilities)
    assert torch.equal(plain.calibrated_probabilities, Calibration.of(config)(plain.probabilities))
    expected = FittedMaps(make_fitted(config), config)(plain.calibrated_probabilities, batch.discrete)
    assert torch.equal(scores.calibrated_probabilities, expected)
    assert not torch.equal(scores.score, plain.score)


@pytest.fixture
def model(feed: Path, tmp_path: Path) -> Path:
    written(feed_config(feed, tmp_path / "run"), tmp_path / "model")
    return tmp_path / "model"


def content(**changes: Any) -> str:
    values = json.loads(fitted(like=task(AFFINE)).model_dump_json()) | changes
    return json.dumps({name: value for name, value in values.items() if value != "absent"})


def test_a_model_directory_gains_and_loses_its_calibration_and_is_complete_all_along(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, sync, kill_at = open_model(model).config, storage._sync, [0]

    def rows() -> int | None:
        verify(model)
        calibration = read_calibration(model, config)
        return None if calibration is None else calibration.rows

    def killed(path: Path) -> None:
        kill_at[0] -= 1
        if kill_at[0] == 0:
            raise RunError("killed")
        sync(path)

    monkeypatch.setattr(storage, "_sync", killed)
    assert rows() is None
    for before, after in ((None, 9), (9, 10)):
        for moment in range(1, 7):
            kill_at[0] = moment
            with suppress(RunError):
                add_file(model, CALIBRATION, content(rows=after))
            assert rows() in (None, before, after)
        kill_at[0] = 0
        add_file(model, CALIBRATION, content(rows=after))
        assert rows() == after
    remove_file(model, CALIBRATION)
    assert rows() is None
    assert not (model / CALIBRATION).exists()


def test_writers_at_once_leave_a_complete_directory(model: Path) -> None:
    def write(rows: int) -> None:
        for _ in range(10):
            add_file(model, CALIBRATION, content(rows=rows))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    verify(model)
    calibration = open_model(model).calibration
    assert calibration is not None
    assert calibration.rows in range(4)


def test_a_file_that_the_manifest_does_not_list_is_not_read(model: Path) -> None:
    (model / CALIBRATION).write_text(content())
    assert open_model(model).calibration is None


def test_a_copy_is_a_model_directory_that_predicts_with_the_calibration(model: Path, tmp_path: Path) -> None:
    copy_model(model, tmp_path / "copy", {CALIBRATION: content()})
    verify(tmp_path / "copy")
    assert open_model(tmp_path / "copy").calibration == fitted(like=task(AFFINE))
    assert Predictor.open(model).scorer.fitted is None
    assert Predictor.open(tmp_path / "copy").scorer.fitted is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": "absent"}, "tasks: Field required"),
        ({"more": 1}, "more: Extra inputs"),
        ({"tasks": {"like": {"map": {"kind": "affine", "slope": 0.0, "intercept": 0.0}, "positives": 9}}}, "greater"),
        ({"tasks": {"like": {"map": {"kind": "affine", "slope": 1e999, "intercept": 0.0}, "positives": 9}}}, "finite"),
        (
            {"tasks": {"like": {"map": {"kind": "isotonic", "knots": [1.0, 0.0], "values": [0, 1]}, "positives": 9}}},
            "ascend",
        ),
        (
            {"tasks": {"like": {"map": {"kind": "isotonic", "knots": [1.0], "values": [0, 1]}, "positives": 9}}},
            "as many values as knots",
        ),
        (
            {"tasks": {"like": {"map": {"kind": "isotonic", "knots": [0.0, 1e9], "values": [0, 1]}, "positives": 9}}},
            "less than or equal to 1000000",
        ),
        (
            {"tasks": {"like": {"map": {"kind": "isotonic", "knots": [0, 1e-320], "values": [0, 1]}, "positives": 9}}},
            "at least 1e-100 apart",
        ),
        ({"tasks": {"lik": json.loads(task(AFFINE).model_dump_json())}}, "'lik' is not a binary task"),
        ({"by": "user"}, "by: 'user' is not a discrete feature"),
        ({"sampling": {"like": 0.1, "share": 1.0}}, "after another correction of the sampling rates of 'like'"),
    ],
)
def test_a_calibration_that_does_not_fit_the_model_is_refused(
    model: Path, changes: dict[str, Any], message: str
) -> None:
    add_file(model, CALIBRATION, content(**changes))
    with pytest.raises(CheckpointError, match=message) as error:
        open_model(model)
    assert "recap calibrate --remove" in str(error.value)


def test_overrides_of_the_sampling_rates_are_refused_after_a_calibration(model: Path) -> None:
    override = ["train_data.tasks.like.neg_downsampling_rate=0.1"]
    open_model(model, override)
    add_file(model, CALIBRATION, content())
    with pytest.raises(CheckpointError, match="another correction of the sampling rates of 'like'"):
        open_model(model, override)


def test_offsets_need_a_feature_with_one_code_per_row() -> None:
    values = feed_values(Path("feed"), Path("run"))
    values["features"]["discrete"]["hour"] = {"hash": {"buckets": 30}}
    config = config_of(values)
    offsets = task(AFFINE, Offset(value=3, code=3, offset=0.1, positives=20))
    assert fitted(by="hour", like=offsets).misfit(CONFIG) is None
    assert "one code per row" in str(fitted(by="hour", like=offsets).misfit(config))
    assert "offsets need the feature" in str(fitted(like=offsets).misfit(CONFIG))
