"""Metrics of regression tasks: their values, and the laws that every metric keeps."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from evaluation.test_metrics import assert_equal_metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recap.config.metrics import BINARY_METRICS, REGRESSION_METRICS
from recap.errors import RunError
from recap.evaluation.metrics import regression as regression_module
from recap.evaluation.metrics.pairs import BINS, PairGrid, ordered_share
from recap.evaluation.metrics.regression import Xauc
from recap.evaluation.metrics.suite import MetricSuite

Rows = tuple[Tensor, Tensor, Tensor]
SPREADS = [0.01, 1.0, 5.0]


def make_rows(count: int, seed: int = 0, tasks: int = 2, ties: bool = False, spread: float = 1.0) -> Rows:
    """Predictions, labels and weights [B, T]: values of either sign and of many magnitudes."""
    torch.manual_seed(seed)
    labels = torch.randn(count, tasks).mul(spread).exp() - 1
    predictions = labels * torch.randn(count, tasks).mul(0.5).exp() + 0.1 * torch.randn(count, tasks)
    if ties:
        labels, predictions = labels.round(), predictions.round()
    return predictions, labels, torch.rand(count, tasks) * (torch.rand(count, tasks) < 0.9)


def suite() -> MetricSuite:
    return MetricSuite(["task0", "task1"], regressions=["task0", "task1"])


def compute(rows: Rows, cuts: list[int] | None = None) -> dict[str, dict[str, float]]:
    made = suite()
    for part in torch.arange(len(rows[0])).tensor_split(cuts or []):
        made.update(*(tensor[part] for tensor in rows))
    return made.compute()


def slow_xauc(predictions: Tensor, labels: Tensor, weights: Tensor) -> float:
    won = pairs = 0.0
    rows = list(zip(predictions.tolist(), labels.tolist(), weights.tolist(), strict=True))
    for one, other in combinations(rows, 2):
        if one[1] != other[1]:
            pairs += one[2] * other[2]
            agree = (one[0] - other[0]) * (one[1] - other[1])
            won += one[2] * other[2] * (1 if agree > 0 else 0.5 if agree == 0 else 0)
    return won / pairs if pairs else math.nan


@settings(max_examples=40)
@given(st.integers(0, 70), st.integers(0, 10**6), st.booleans(), st.sampled_from(SPREADS))
def test_metrics_are_what_they_are_called(count: int, seed: int, ties: bool, spread: float) -> None:
    predictions, labels, weights = rows = make_rows(count, seed, ties=ties, spread=spread)
    found = compute(rows)["task1"]
    prediction, label, weight = (tensor[:, 1].double() for tensor in rows)
    total = weight.sum()
    assert tuple(found) == REGRESSION_METRICS
    assert found["count"] == (weight > 0).sum()
    expected = {
        "mean_label": (weight * label).sum() / total,
        "mean_prediction": (weight * prediction).sum() / total,
        "mae": (weight * (prediction - label).abs()).sum() / total,
        "rmse": ((weight * (prediction - label) ** 2).sum() / total).sqrt(),
        "xauc": slow_xauc(predictions[:, 1], labels[:, 1], weights[:, 1]),
        "xauc_bound": 0.0,
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(float(value), rel=1e-6, nan_ok=True), name


@settings(max_examples=30)
@given(
    st.integers(0, 120),
    st.integers(0, 10**6),
    st.booleans(),
    st.lists(st.integers(0, 120), max_size=4),
    st.sampled_from([0, 50, 1000]),
    st.sampled_from(SPREADS),
)
def test_cutting_and_merging_and_order_change_nothing(
    count: int, seed: int, ties: bool, cuts: list[int], exact_rows: int, spread: float
) -> None:
    rows = make_rows(count, seed, ties=ties, spread=spread)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(regression_module.Xauc.__init__, "__defaults__", (exact_rows,))
        whole = compute(rows)
        assert_equal_metrics(whole, compute(rows, sorted(cuts)))
        shuffled = torch.randperm(count)
        mixed: Rows = tuple(tensor[shuffled] for tensor in rows)  # type: ignore[assignment]
        assert_equal_metrics(whole, compute(mixed, sorted(cuts)))
        parts = [suite(), suite(), suite()]
        for index in range(3):
            parts[index].update(*(tensor[index::3] for tensor in rows))
        parts[2].merge(parts[1])
        parts[0].merge(parts[2])
        assert_equal_metrics(whole, parts[0].compute())


@settings(max_examples=40)
@given(st.integers(2, 200), st.integers(0, 10**6), st.booleans(), st.sampled_from(SPREADS))
def test_the_binned_xauc_stays_within_its_stated_error(count: int, seed: int, ties: bool, spread: float) -> None:
    rows = [tensor.double() for tensor in make_rows(count, seed, ties=ties, spread=spread)]
    rows[0], rows[1] = rows[0].float().double(), rows[1].float().double()
    exact, binned = Xauc(2), Xauc(2, exact_rows=0)
    for metric in (exact, binned):
        metric.update(*rows)
    found, expected = binned.compute(), exact.compute()
    known = expected["xauc"].isfinite() & found["xauc"].isfinite()
    assert ((found["xauc"] - expected["xauc"]).abs() <= found["xauc_bound"] + 1e-9)[known].all()
    if ties and spread < 5:
        assert torch.equal(found["xauc_bound"][known], torch.zeros(int(known.sum()), dtype=torch.float64))


def test_bins_follow_the_values_so_that_the_bound_is_small_whatever_their_magnitude() -> None:
    for scale, most in ((1e-3, 0.05), (1.0, 0.02), (1e6, 0.02)):
        predictions, labels, weights = (tensor.double() for tensor in make_rows(20_000, tasks=1))
        metric = Xauc(1, exact_rows=0)
        metric.update(predictions * scale, labels * scale, weights)
        assert metric.compute()["xauc_bound"].item() < most, scale


def test_a_grid_holds_at_most_its_bins_and_depends_on_the_rows_alone() -> None:
    values = np.array([0.0, 1e-9, 3.0, -2.0, 1e30, -1e12, 5e-4])
    weights = np.ones(len(values))
    whole, pieces, merged = PairGrid(), PairGrid(), PairGrid()
    whole.add(values, values, weights)
    for index in (3, 0, 6, 1, 2, 5, 4):
        one = values[index : index + 1]
        pieces.add(one, one, weights[:1])
        other = PairGrid()
        other.add(one, one, weights[:1])
        merged.merge(other)
    for grid in (pieces, merged):
        assert grid.axes == whole.axes
        assert np.array_equal(grid.cells, whole.cells)
        assert np.array_equal(grid.lowest, whole.lowest)
    assert all(axis.last - axis.first < BINS for axis in whole.axes)


def test_many_rows_take_no_loop_over_pairs() -> None:
    values = np.arange(30_000, dtype=np.float64)
    assert ordered_share(values, values, np.ones(30_000)) == 1
    assert ordered_share(-values, values, np.ones(30_000)) == 0


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("labels", [[], [2.0], [2.0, 2.0], [0.0, 3.5]])
@pytest.mark.parametrize("weight", [0.0, 1.0])
@pytest.mark.parametrize("exact_rows", [0, 10])
def test_edge_values_are_nan_or_numbers_but_never_an_exception(
    labels: list[float], weight: float, exact_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(regression_module.Xauc.__init__, "__defaults__", (exact_rows,))
    column = torch.tensor(labels)[:, None]
    made = MetricSuite(["a"], regressions=["a"])
    made.update(column, column, torch.full_like(column, weight))
    found = made.compute()["a"]
    nothing = not labels or not weight
    assert found["count"] == (0 if nothing else len(labels))
    for name in ("mae", "rmse", "mean_label", "mean_prediction"):
        assert math.isnan(found[name]) == nothing, name
    assert math.isnan(found["xauc"]) == (nothing or len(set(labels)) < 2)


def test_tasks_have_the_metrics_of_their_kind_in_the_order_of_tasks() -> None:
    made = MetricSuite(["watched", "like", "time"], regressions=["time", "watched"])
    predictions = torch.tensor([[3.0, 0.5, -7.0], [1e6, 0.25, 2.0]])
    labels = torch.tensor([[3.0, 1.0, -7.0], [0.0, 0.0, 2.0]])
    made.update(predictions, labels, torch.ones(2, 3), torch.zeros(2, dtype=torch.int64))
    found = made.compute()
    assert list(found) == ["watched", "like", "time"]
    assert list(found["like"]) == [*BINARY_METRICS[:-1], "hit_at_1", "hit_at_3", "hit_at_10"]
    assert tuple(found["time"]) == REGRESSION_METRICS
    assert (found["like"]["auc"], found["time"]["mae"], found["watched"]["xauc"]) == (1, 0, 0)
    chosen = MetricSuite(["watched", "like"], ["auc", "rmse"], ["watched"]).compute()
    assert {task: list(metrics) for task, metrics in chosen.items()} == {"watched": ["rmse"], "like": ["auc"]}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_none_is_refused_by_task(value: float) -> None:
    predictions = torch.tensor([[0.5, 2.0], [0.5, value]])
    with pytest.raises(RunError, match=r"task 'b': predicted value .*; the model has diverged"):
        MetricSuite(["a", "b"], regressions=["b"]).update(predictions, torch.zeros(2, 2), torch.ones(2, 2))
