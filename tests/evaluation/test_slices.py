"""Sums by the values of columns, and the slices that they show to do worse than the other rows."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model.rankers import make_batch
from scipy import stats
from statsmodels.stats.multitest import multipletests
from support import feed_config, write_feed
from torch import Tensor

from recap.data.encoding.assets import load_assets
from recap.distributed import ONE_RANK
from recap.evaluation import slices as module
from recap.evaluation.metrics.buckets import BUCKETS, bucket_of
from recap.evaluation.metrics.sums import cross_entropy
from recap.evaluation.observers.bins import Bin, BinnedColumn, Bins, range_texts
from recap.evaluation.observers.columns import LABEL, LOSS, PREDICTION, WEIGHT, Columns, ColumnSums, max_bins
from recap.evaluation.slices import Slices, find_slices
from recap.model.scorer import Scores


def scores_of(probabilities: Tensor) -> Scores:
    return Scores(probabilities, probabilities, probabilities, torch.zeros(len(probabilities)))


def test_each_value_has_the_sums_that_pandas_finds_in_its_rows(tmp_path: Path) -> None:
    config = feed_config(write_feed(tmp_path), tmp_path / "run")
    batches = [replace(make_batch(config, 300, seed), user=torch.arange(300) // 7) for seed in range(3)]
    bins = Bins.of(config.features, load_assets(config.features), batches)
    columns = Columns(config, "validation", bins, ONE_RANK)
    torch.manual_seed(0)
    predictions = [torch.rand(300, 2) for _ in batches]
    for batch, predicted in zip(batches, predictions, strict=True):
        columns.update(batch, scores_of(predicted))
    result = columns.result()
    assert result.counts[:, 0, 1].sum() == 900 * len(bins.columns)

    def joined(name: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return torch.cat([getattr(batch, name) for batch in batches]).double().numpy()

    p = torch.cat(predictions)[:, 1].double()
    y, w = torch.from_numpy(joined("labels")[:, 1]), torch.from_numpy(joined("weights")[:, 1])
    rows = pd.DataFrame({WEIGHT: w, LABEL: w * y, PREDICTION: w * p, LOSS: w * cross_entropy(p, y)})
    rows["bucket"] = np.concatenate([bucket_of(torch.arange(300) // 7).numpy()] * 3)
    age = joined("continuous")[:, 0]
    values = {"hour": joined("discrete")[:, 0] - 1, "in_network": joined("binary")[:, 0], "age": age}
    for column, start in zip(bins.columns, bins.starts, strict=True):
        for number, bin_ in enumerate(column.bins):
            if column.feature not in values or bin_.text in ("others", "unknown or missing"):
                continue
            value = values[column.feature]
            if bin_.stratum is None:
                selected = ~np.isfinite(value)
            elif "value" in bin_.stratum:
                selected = value == bin_.stratum["value"]
            else:
                selected = value >= bin_.stratum.get("at_least", -np.inf)
                selected &= value < bin_.stratum.get("below", np.inf)
            expected = rows[selected].groupby("bucket").sum().reindex(range(BUCKETS), fill_value=0)
            found = result.sums[start + number, :, :4, 1]
            assert found.numpy() == pytest.approx(expected.to_numpy())
    ranges = result.counts[: len(bins.columns[0].bins) - 1, 0, 1]
    assert len(ranges) == 10
    assert ranges.max() <= ranges.min() + 2


@given(st.integers(0, 10_000), st.integers(0, 60))
@settings(max_examples=15, deadline=None)
def test_sums_do_not_depend_on_the_order_of_rows_nor_on_parts(seed: int, cut: int) -> None:
    random = torch.Generator().manual_seed(seed)
    index = torch.randint(0, 5, (2, 60), generator=random) + torch.tensor([[0], [5]])
    rows = [torch.rand(60, 2, generator=random).double() for _ in range(3)]
    buckets = torch.randint(0, BUCKETS, (60,), generator=random)
    whole, one, other = (ColumnSums.of(10, 2) for _ in range(3))
    whole.add(index, *rows, buckets)
    order = torch.randperm(60, generator=random)
    for part, selected in ((one, order[:cut]), (other, order[cut:])):
        part.add(index[:, selected], *(column[selected] for column in rows), buckets[selected])
    one.merge(other)
    assert torch.allclose(one.sums, whole.sums)
    assert torch.equal(one.counts, whole.counts)


def sums_of(seed: int, rate: float, factor: float = 1.0, noise: bool = False) -> tuple[Bins, ColumnSums]:
    """30,000 rows of 3,000 users and 8 columns of 10 values; the predictions are the true probabilities, but
    in the rows of `worst` = 3, where they are `factor` too high, or say nothing."""
    random = np.random.default_rng(seed)
    names = [f"column {number}" for number in range(7)] + ["worst"]
    values = random.integers(0, 10, (8, 30_000))
    p = 1 / (1 + np.exp(-np.log(rate) - random.normal(size=30_000)))
    y = (random.random(30_000) < p).astype(float)
    worst = values[7] == 3
    if noise:
        y[worst] = random.permutation(y[worst])
    predicted = np.where(worst, np.minimum(p * factor, 0.99), p)
    columns = [
        BinnedColumn(name, "discrete", number, [Bin(str(value)) for value in range(10)], torch.arange(10))
        for number, name in enumerate(names)
    ]
    bins, sums = Bins(columns), ColumnSums.of(80, 1)
    index = torch.from_numpy(values + np.arange(8)[:, None] * 10)
    rows = (torch.from_numpy(column)[:, None] for column in (predicted, y, np.ones(30_000)))
    sums.add(index, *rows, bucket_of(torch.from_numpy(random.integers(0, 3000, 30_000))))
    return bins, sums


def test_a_bad_slice_comes_first_with_its_words() -> None:
    found = find_slices(*sums_of(0, 0.2, factor=1.5), ["like"])
    first = found.slices[0]
    assert (first.kind, first.task, first.feature, first.values) == ("calibration", "like", "worst", "3")
    assert first.calibration_interval[0] < first.calibration < first.calibration_interval[1]
    assert first.calibration == pytest.approx(1.5, abs=0.1)
    assert first.calibration_of_others == pytest.approx(1, abs=0.05)
    assert first.p < 1e-6
    assert all(item.feature == "worst" for item in found.slices)
    assert Slices.from_json(json.loads(json.dumps(found.to_json()))) == found
    blind = find_slices(*sums_of(0, 0.2, noise=True), ["like"]).slices
    assert [(item.kind, item.values) for item in blind] == [("rce", "3")]
    assert blind[0].rce < blind[0].rce_of_others


def test_of_two_values_that_differ_only_the_wrong_one_is_reported() -> None:
    _, sums = sums_of(0, 0.2, factor=1.5)
    right = [number for number in range(70, 80) if number != 73]
    two = ColumnSums(
        torch.stack([sums.sums[right].sum(dim=0), sums.sums[73]]),
        torch.stack([sums.counts[right].sum(dim=0), sums.counts[73]]),
    )
    column = BinnedColumn("has_video", "binary", 0, [Bin("0"), Bin("1")], torch.ones(1))
    found = find_slices(Bins([column]), two, ["like"]).slices
    assert {item.values for item in found} == {"1"}


def test_where_nothing_is_wrong_nothing_is_reported() -> None:
    looks = [find_slices(*sums_of(seed, rate), ["like"]) for seed in range(20) for rate in (0.2, 0.01)]
    assert sum(bool(found.slices) for found in looks) <= 4  # of 40; 95 % of the time at most 4, if each has 5 %
    assert max(found.looks for found in looks) == 160


def test_p_values_are_those_of_student_corrected_by_holm(monkeypatch: pytest.MonkeyPatch) -> None:
    bins, sums = sums_of(3, 0.2, factor=1.3)
    questions = [item for column in range(8) for item in module._questions(bins, column, sums)]
    sides = np.array([2 if item.kind == "calibration" else 1 for item in questions])
    raw = sides * stats.t.sf([item.t for item in questions], [item.freedom for item in questions])
    rejected, corrected = multipletests(np.minimum(raw, 1), alpha=module.LEVEL, method="holm")[:2]
    rejected &= [item.is_worse for item in questions]
    listed = find_slices(bins, sums, ["like"]).slices
    assert sorted(item.p for item in listed) == pytest.approx(sorted(corrected[rejected]), rel=1e-6, abs=1e-13)
    monkeypatch.setattr(module, "MAX_SLICES", 1)
    cut = find_slices(bins, sums, ["like"])
    assert (len(cut.slices), cut.more) == (1, len(listed) - 1)


def test_columns_beyond_the_memory_are_left_out_and_counted(tmp_path: Path) -> None:
    config = feed_config(write_feed(tmp_path), tmp_path / "run")
    sample = [make_batch(config, 300)]
    assets = load_assets(config.features)
    everything = Bins.of(config.features, assets, sample)
    some = Bins.of(config.features, assets, sample, limit=len(everything) - 1)
    assert (len(some.columns), some.left_out) == (len(everything.columns) - 1, 1)
    assert max_bins(8) * BUCKETS * 8 * 5 * 8 <= 256 << 20
    chosen = Bins.of(config.features, assets, sample, ["hour"])
    assert [column.feature for column in chosen.columns] == ["hour"]


@pytest.mark.parametrize(
    ("ends", "texts"),
    [
        ([], ["any value"]),
        ([620535.0, 2095760.0], ["below 620,535", "620,535 to 2.1 M", "2.1 M or more"]),
        ([-0.012345, 12.3456], ["below -0.0123", "-0.0123 to 12.3", "12.3 or more"]),
        ([1651234567.0, 1651244567.0], ["below 1.65123 G", "1.65123 G to 1.65124 G", "1.65124 G or more"]),
    ],
)
def test_ranges_have_as_many_digits_as_tell_their_ends_apart(ends: list[float], texts: list[str]) -> None:
    assert range_texts(ends) == texts


def test_a_value_that_the_sample_lacks_counts_among_the_others(tmp_path: Path) -> None:
    config = feed_config(write_feed(tmp_path), tmp_path / "run")
    batch = make_batch(config, 50)
    sample = batch.rows(slice(0, 5))
    (hour,) = Bins.of(config.features, load_assets(config.features), [sample], ["hour"]).columns
    texts = [hour.bins[index].text for index in hour.of(batch).tolist()]
    known = set(sample.discrete[:, 0].tolist())
    codes = batch.discrete[:, 0].tolist()
    assert texts == [str(code - 1) if code in known else "others" for code in codes]
