"""Metrics of regression tasks: their values, and the laws that hold for every metric."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from evaluation.test_binary_metrics import REPORTED, assert_equal_metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recap.config.evaluation.metrics import REGRESSION_METRICS
from recap.errors import RunError
from recap.evaluation.metrics.rows import MAX_ROWS, Rows
from recap.evaluation.metrics.suite import MetricSuite
from recap.evaluation.metrics.xauc import xauc, xauc_by_bucket

Columns = tuple[Tensor, Tensor, Tensor]
SPREADS = [0.01, 1.0, 5.0]


def make_rows(count: int, seed: int = 0, tasks: int = 2, ties: bool = False, spread: float = 1.0) -> Columns:
    """Predictions, labels and weights [B, T]: values of either sign and of many magnitudes."""
    torch.manual_seed(seed)
    labels = torch.randn(count, tasks).mul(spread).exp() - 1
    predictions = labels * torch.randn(count, tasks).mul(0.5).exp() + 0.1 * torch.randn(count, tasks)
    if ties:
        labels, predictions = labels.round(), predictions.round()
    return predictions, labels, torch.rand(count, tasks) * (torch.rand(count, tasks) < 0.9)


def suite(max_rows: int = MAX_ROWS) -> MetricSuite:
    return MetricSuite(["task0", "task1"], regressions=["task0", "task1"], max_rows=max_rows)


def compute(rows: Columns, cuts: list[int] | None = None, max_rows: int = MAX_ROWS) -> dict[str, dict[str, float]]:
    made = suite(max_rows)
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
def test_metrics_follow_their_definitions(count: int, seed: int, ties: bool, spread: float) -> None:
    predictions, labels, weights = rows = make_rows(count, seed, ties=ties, spread=spread)
    metrics = compute(rows)["task1"]
    prediction, label, weight = (tensor[:, 1].double() for tensor in rows)
    total = weight.sum()
    assert tuple(metrics) == REGRESSION_METRICS
    assert metrics["count"] == (weight > 0).sum()
    expected = {
        "mean_label": (weight * label).sum() / total,
        "mean_prediction": (weight * prediction).sum() / total,
        "mae": (weight * (prediction - label).abs()).sum() / total,
        "rmse": ((weight * (prediction - label) ** 2).sum() / total).sqrt(),
        "xauc": slow_xauc(predictions[:, 1], labels[:, 1], weights[:, 1]),
    }
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(float(value), rel=1e-6, nan_ok=True), name


@settings(max_examples=30)
@given(
    st.integers(0, 120),
    st.integers(0, 10**6),
    st.booleans(),
    st.lists(st.integers(0, 120), max_size=4),
    st.sampled_from([0, 50, 1000]),
    st.sampled_from(SPREADS),
)
def test_metrics_do_not_depend_on_batches_merges_and_order(
    count: int, seed: int, ties: bool, cuts: list[int], max_rows: int, spread: float
) -> None:
    rows = make_rows(count, seed, ties=ties, spread=spread)
    whole = compute(rows, max_rows=max_rows)
    assert_equal_metrics(whole, compute(rows, sorted(cuts), max_rows))
    if count > max_rows:  # the sample of rows depends on their order
        whole = {task: {name: metrics[name] for name in ("count", "mae", "rmse")} for task, metrics in whole.items()}
    shuffled = torch.randperm(count)
    mixed: Columns = tuple(tensor[shuffled] for tensor in rows)  # type: ignore[assignment]
    assert_equal_metrics(whole, compute(mixed, sorted(cuts), max_rows))
    parts = [suite(max_rows) for _ in range(3)]
    for index, part in enumerate(parts):
        part.update(*(tensor[index::3] for tensor in rows))
    parts[2].merge(parts[1])
    parts[0].merge(parts[2])
    assert_equal_metrics(whole, parts[0].compute())


def test_the_xauc_of_a_sample_is_within_its_bound_of_that_of_all_rows() -> None:
    predictions, labels, weights = make_rows(40_000)
    rows = (predictions, labels, weights, torch.randint(0, 4000, (40_000,)))
    exact, sampled = suite(), suite(max_rows=10_000)
    exact.update(*rows)
    sampled.update(*rows)
    for task, metrics in sampled.compute().items():
        assert metrics["xauc"] != exact.compute()[task]["xauc"]
        assert metrics["xauc_bound"] < 0.02
        assert metrics["xauc"] == pytest.approx(exact.compute()[task]["xauc"], abs=metrics["xauc_bound"])
        assert metrics["mae"] == exact.compute()[task]["mae"]


@settings(max_examples=30)
@given(st.integers(0, 60), st.integers(0, 10**6), st.booleans(), st.booleans())
def test_an_xauc_without_a_bucket_is_that_of_the_other_rows(count: int, seed: int, ties: bool, weigh: bool) -> None:
    predictions, labels, weights = make_rows(count, seed, ties=ties)
    weights = weights if weigh else torch.full_like(weights, 0.3)
    rows = Rows(
        np.zeros(count, np.int64), *(tensor[:, 0].double().numpy() for tensor in (predictions, labels, weights))
    )
    assert xauc(rows) == pytest.approx(slow_xauc(predictions[:, 0], labels[:, 0], weights[:, 0]), nan_ok=True)
    buckets = np.random.default_rng(seed).integers(0, 5, count).astype(np.uint8)
    value, without = xauc_by_bucket(rows, buckets, 6)
    assert value == pytest.approx(xauc(rows), nan_ok=True)
    expected = [xauc(rows.at(np.flatnonzero(buckets != bucket))) for bucket in range(6)]
    assert without == pytest.approx(expected, nan_ok=True)


def test_the_interval_of_an_xauc_is_that_of_its_users() -> None:
    predictions, labels, weights = make_rows(2000, tasks=1)
    users = torch.randint(0, 300, (2000,))
    by_user, by_row = (MetricSuite(["time"], ["xauc"], ["time"]) for _ in range(2))
    by_user.update(predictions, labels, weights, users)
    by_row.update(predictions.repeat(3, 1), labels.repeat(3, 1), weights.repeat(3, 1), users.repeat(3))
    one, other = (made.result().estimates["time"]["xauc"] for made in (by_user, by_row))
    assert one.value == pytest.approx(other.value, abs=1e-3)
    assert one.standard_error == pytest.approx(other.standard_error, rel=1e-3)  # copies of rows tell nothing new
    assert 0.002 < one.standard_error < 0.02


def test_an_xauc_of_equal_labels_is_undefined_whatever_the_weights() -> None:
    random = np.random.default_rng(0)
    rows = Rows(np.zeros(1000, np.int64), random.random(1000), np.ones(1000), random.random(1000) * 1e-3)
    assert math.isnan(xauc(rows))


def test_many_rows_do_not_take_quadratic_time() -> None:
    values = np.arange(30_000, dtype=np.float64)
    users, weights = np.zeros(30_000, np.int64), np.ones(30_000)
    assert xauc(Rows(users, values, values, weights)) == 1
    assert xauc(Rows(users, -values, values, weights)) == 0


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("labels", [[], [2.0], [2.0, 2.0], [0.0, 3.5]])
@pytest.mark.parametrize("weight", [0.0, 1.0])
@pytest.mark.parametrize("max_rows", [0, 10])
def test_edge_cases_give_nan_or_numbers_but_never_raise(labels: list[float], weight: float, max_rows: int) -> None:
    column = torch.tensor(labels)[:, None]
    made = MetricSuite(["a"], regressions=["a"], max_rows=max_rows)
    made.update(column, column, torch.full_like(column, weight))
    metrics = made.compute()["a"]
    nothing = not labels or not weight
    assert metrics["count"] == (0 if nothing else len(labels))
    for name in ("mae", "rmse", "mean_label", "mean_prediction"):
        assert math.isnan(metrics[name]) == nothing, name
    assert math.isnan(metrics["xauc"]) == (nothing or len(set(labels)) < 2 or max_rows == 0)


def test_tasks_have_the_metrics_of_their_kind() -> None:
    made = MetricSuite(["watched", "like", "time"], regressions=["time", "watched"])
    predictions = torch.tensor([[3.0, 0.5, -7.0], [1e6, 0.25, 2.0]])
    labels = torch.tensor([[3.0, 1.0, -7.0], [0.0, 0.0, 2.0]])
    made.update(predictions, labels, torch.ones(2, 3), torch.zeros(2, dtype=torch.int64))
    metrics = made.compute()
    assert list(metrics) == ["watched", "like", "time"]
    assert list(metrics["like"]) == REPORTED
    assert tuple(metrics["time"]) == REGRESSION_METRICS
    assert (metrics["like"]["auc"], metrics["time"]["mae"], metrics["watched"]["xauc"]) == (1, 0, 0)
    chosen = MetricSuite(["watched", "like"], ["auc", "rmse"], ["watched"]).compute()
    assert {task: list(metrics) for task, metrics in chosen.items()} == {"watched": ["rmse"], "like": ["auc"]}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_impossible_value_is_refused_with_its_task(value: float) -> None:
    predictions = torch.tensor([[0.5, 2.0], [0.5, value]])
    with pytest.raises(RunError, match=r"task 'b': predicted value .*; the model has diverged"):
        MetricSuite(["a", "b"], regressions=["b"]).update(predictions, torch.zeros(2, 2), torch.ones(2, 2))
