"""Fitting all tasks of a model on rows, and the gain on other rows."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from support import feed_values
from torch import Tensor

from recap.config.file.load import config_of
from recap.config.recap import RecapConfig
from recap.data.batch import Batch
from recap.errors import InputError
from recap.evaluation.calibrate import rows as module
from recap.evaluation.calibrate.gain import SplitGain, measure_gain
from recap.evaluation.calibrate.rows import RowCollector, SplitRows
from recap.evaluation.calibrate.tasks import Calibrating, check_feature
from recap.evaluation.calibrate.worse import without_worse
from recap.model.calibration import AffineMap, FittedCalibration, IsotonicMap
from recap.model.scorer import Scores

ASSETS = {"language": pa.array(["en", "ja"])}


def make_config() -> RecapConfig:
    values = feed_values(Path("feed"), Path("run"))
    values["metrics"] = {"fields": ["language"]}
    return config_of(values)


CONFIG = make_config()


def make_rows(true: Callable[[Tensor], Tensor], seed: int, rows: int = 60_000) -> SplitRows:
    """Rows with predictions σ(z) of both tasks, labels drawn from σ(true(z) + offset), the offset by language."""
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, 2, generator=random) - 1
    codes = torch.stack([torch.zeros(rows), torch.randint(0, 3, (rows,), generator=random)], dim=1).long()
    offset = torch.tensor([0.0, 0.6, -0.6])[codes[:, 1]].unsqueeze(1)
    labels = torch.rand(rows, 2, generator=random) < (true(logits) + offset).sigmoid()
    users = torch.randint(0, 3000, (rows,), generator=random)
    return SplitRows(rows, logits.sigmoid(), labels.float(), torch.ones(rows, 2), users, {"language": codes[:, 1]})


def bent(logits: Tensor) -> Tensor:
    return 0.7 * logits + 0.5 * (2 * logits).tanh() - 0.5


def test_monotone_maps_keep_auc_and_mend_the_rest_on_other_rows() -> None:
    train, test = make_rows(bent, 0), make_rows(bent, 1)
    losses = {}
    for method in ("affine", "isotonic"):
        fitted = Calibrating(CONFIG, ASSETS, "validation", [], method).fit(train)  # type: ignore[arg-type]
        assert isinstance(fitted.tasks["like"].map, IsotonicMap) == (method == "isotonic")
        gain = measure_gain(test, fitted, CONFIG, "test")
        assert gain.auc_change is not None
        assert gain.auc_change < 1e-7
        for task in gain.tasks.values():
            assert task.log_loss.low > 0
            assert abs(task.after["calibration"].value - 1) < 0.02 < abs(task.before["calibration"].value - 1)
            assert task.after["ece"].value < task.before["ece"].value
        losses[method] = gain.tasks["like"].after["log_loss"].value
        assert set(gain.metrics) == {"log_loss", "rce", "calibration", "ece", "auc", "field_rce_language"}
    assert losses["isotonic"] < losses["affine"]


def test_offsets_by_value_mend_the_field_rce() -> None:
    train, test = make_rows(bent, 0), make_rows(bent, 1)
    fitted = Calibrating(CONFIG, ASSETS, "validation", [], by="language").fit(train)
    offsets = {offset.value: offset.offset for offset in fitted.tasks["like"].offsets}
    assert offsets == pytest.approx({"(unknown)": 0.0, "en": 0.6, "ja": -0.6}, abs=0.1)
    gain = measure_gain(test, fitted, CONFIG, "test")
    assert gain.auc_change is None
    for task in gain.tasks.values():
        assert task.after["field_rce_language"].value < 0.1 * task.before["field_rce_language"].value
        assert task.after["calibration"].value == pytest.approx(1, abs=0.02)


def test_a_fit_depends_on_no_row_without_weight() -> None:
    rows = make_rows(bent, 0, 4000)
    weights = rows.weights.clone()
    weights[::2] = 0
    calibrating = Calibrating(CONFIG, ASSETS, "validation", [], by="language")
    half = torch.arange(4000) % 2 == 1
    assert calibrating.fit(replace(rows, weights=weights)).tasks == calibrating.fit(rows.select(half)).tasks


def test_rows_count_by_what_they_tell_and_not_by_the_size_of_their_weights() -> None:
    rows = make_rows(bent, 0, 4000)
    calibrating = Calibrating(CONFIG, ASSETS, "validation", [], by="language")
    plain, large = (calibrating.fit(replace(rows, weights=rows.weights * weight)).tasks["like"] for weight in (1, 1e9))
    assert large.positives == plain.positives
    for offset, other in zip(plain.offsets, large.offsets, strict=True):
        assert other.offset == pytest.approx(offset.offset, abs=1e-9)
    heavy = rows.weights.clone()
    heavy[:3] = 1e6
    left = calibrating.fit(replace(rows, weights=heavy)).left
    assert "by their weights, as good as " in left["like"]
    assert ", fewer than 50" in left["like"]


def test_a_sample_of_rows_is_fair_and_the_same_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ROWS", 500)
    rows, samples = make_rows(bent, 2, 10_000), []
    for size in (100, 333):
        collector = RowCollector({"language": 1})
        for start in range(0, 10_000, size):
            part = slice(start, start + size)
            batch = Batch(
                continuous=torch.zeros(len(rows.users[part]), 0),
                binary=torch.zeros(len(rows.users[part]), 0),
                discrete=torch.stack([rows.users, rows.codes["language"]], dim=1)[part],
                vectors={},
                labels=rows.labels[part],
                weights=rows.weights[part],
                user=rows.users[part],
            )
            probabilities = rows.probabilities[part]
            collector.update(batch, Scores(probabilities, probabilities, probabilities, probabilities[:, 0]))
        samples.append(collector.result())
    for sample in samples:
        assert (len(sample), sample.total, sample.is_sample) == (500, 10_000, True)
        assert torch.equal(sample.probabilities, samples[0].probabilities)
        assert list(sample.codes) == ["language"]
        assert sample.codes["language"].max() == 2
    positions = torch.isin(rows.probabilities[:, 0], samples[0].probabilities[:, 0]).nonzero()[:, 0]
    assert 4500 < positions.double().mean() < 5500


def test_a_feature_without_one_code_per_row_is_refused() -> None:
    values = feed_values(Path("feed"), Path("run"))
    hours = values["features"]["discrete"]
    hours["hour"] = {"hash": {"buckets": 30}}
    message = (
        r"'hour', which is hashed 2 times \(features.discrete.hour.hash.hashes\); train with 'hashes: 1', or choose"
    )
    with pytest.raises(InputError, match=message):
        check_feature(config_of(values), "hour")
    hours["hour"] = {"hash": {"buckets": 30, "hashes": 1}, "length": 3}
    with pytest.raises(InputError, match="'hour', a list of 3 values; choose a feature with one code per row"):
        check_feature(config_of(values), "hour")


def test_tasks_that_certainly_get_worse_are_left_as_they_were_and_others_warned_of() -> None:
    fitted = Calibrating(CONFIG, ASSETS, "validation", []).fit(make_rows(bent, 0))

    def measured(like: AffineMap, rows: SplitRows, split: str) -> tuple[FittedCalibration, SplitGain, str]:
        """`fitted` with another map of like, its gain, and the rise of the log loss of like."""
        other = fitted.tasks["like"].model_copy(update={"map": like})
        changed = fitted.model_copy(update={"tasks": fitted.tasks | {"like": other}})
        gain = measure_gain(rows, changed, CONFIG, split)
        return changed, gain, f"log loss {-gain.tasks['like'].log_loss.value:+.2g} on {split}"

    lines: list[str] = []
    steep, steep_gain, rise = measured(AffineMap(slope=3.0, intercept=1.0), make_rows(bent, 1), "test")
    saved = without_worse(steep, [steep_gain], Path("run"), lines.append)
    assert saved.tasks == {"share": fitted.tasks["share"]}
    assert saved.left == {"like": f"{rise}, worse than before"}
    assert list(saved.gains[0]["tasks"]) == ["share"]
    assert lines == [f"warning: like: {rise}, worse than before; it is left as it was"]

    lines.clear()
    near, near_gain, rise = measured(AffineMap(slope=0.998, intercept=0.0), make_rows(lambda z: z, 0, 2000), "near")
    like = replace(near_gain, tasks={"like": near_gain.tasks["like"]})
    assert without_worse(near, [like], Path("run"), lines.append).tasks == near.tasks  # nothing shows that share is not
    assert lines == [
        f"warning: like: {rise}, not better than before, though that may be chance",
        "`recap calibrate run --remove` takes the calibration off",
    ]

    for changed, gain in ((steep, steep_gain), (near, near_gain)):
        alone = changed.model_copy(update={"tasks": {"like": changed.tasks["like"]}})
        with pytest.raises(InputError, match="fitted on 'validation' makes no task better on other rows; nothing was"):
            without_worse(alone, [gain], Path("run"), lines.append)
