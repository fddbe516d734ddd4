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
from recap.evaluation.calibrate.gain import measure_gain
from recap.evaluation.calibrate.rows import RowCollector, SplitRows
from recap.evaluation.calibrate.tasks import Calibrating, check_feature
from recap.model.calibration import IsotonicMap
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
    values["features"]["discrete"]["hour"] = {"hash": {"buckets": 30}}
    with pytest.raises(InputError, match="--by: a row has several codes of 'hour'"):
        check_feature(config_of(values), "hour")
