"""Metrics of binary tasks: their values against libraries, and the laws that hold for every metric."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from sklearn.calibration import calibration_curve
from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score
from torch import Tensor

from recap.config.evaluation.metrics import BINARY_METRICS, GROUPED_METRICS, SPECS, MetricsConfig
from recap.errors import RunError
from recap.evaluation.metrics.buckets import bucket_of, values
from recap.evaluation.metrics.estimate import Estimate
from recap.evaluation.metrics.list_rows import ListRows
from recap.evaluation.metrics.lists import ListMetrics
from recap.evaluation.metrics.ranking import auc_standard_error
from recap.evaluation.metrics.rows import MAX_ROWS
from recap.evaluation.metrics.suite import MetricSuite

GOLDEN = Path(__file__).parents[1] / "golden"
Columns = tuple[Tensor, Tensor, Tensor, Tensor]
REPORTED = [name for name in BINARY_METRICS if not (SPECS[name].at_ranks or SPECS[name].of_fields)]
REPORTED += ["hit_at_1", "hit_at_3", "hit_at_10", "ndcg_at_10"]
"""The metrics of a binary task, by default."""


def make_rows(count: int, seed: int = 0, tasks: int = 2, ties: bool = False) -> Columns:
    """Probabilities, labels, weights [B, T] and users [B]."""
    torch.manual_seed(seed)
    logits = torch.randn(count, tasks) * 2 - 1
    if ties:
        logits = logits.round()
    labels = (torch.rand(count, tasks) < (logits + torch.randn(count, tasks)).sigmoid()).float()
    weights = torch.rand(count, tasks) * (torch.rand(count, tasks) < 0.9)
    return logits.sigmoid(), labels, weights, torch.randint(0, max(count // 8, 1), (count,))


def compute(rows: Columns, cuts: list[int] | None = None, max_rows: int = MAX_ROWS) -> dict[str, dict[str, float]]:
    """All metrics after one update per part of the rows."""
    tasks = [f"task{index}" for index in range(rows[0].shape[1])]
    suite = MetricSuite(tasks, max_rows=max_rows, intervals=False)
    for part in torch.arange(len(rows[0])).tensor_split(cuts or []):
        suite.update(*(tensor[part] for tensor in rows))
    return suite.compute()


def without_lists(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not name.startswith((*GROUPED_METRICS,))}


def assert_equal_metrics(left: dict[str, dict[str, float]], right: dict[str, dict[str, float]]) -> None:
    for task, metrics in left.items():
        for name, value in metrics.items():
            assert value == pytest.approx(right[task][name], rel=1e-9, abs=1e-9, nan_ok=True), (task, name)


def test_all_metrics_are_reported_in_the_order_of_the_table() -> None:
    assert list(compute(make_rows(50))["task0"]) == REPORTED
    assert compute(make_rows(50))["task0"]["auc_bound"] == 0


def test_only_chosen_metrics_are_reported_and_no_list_metrics_without_users() -> None:
    suite = MetricSuite(["a"], ["log_loss", "auc"])
    rows = make_rows(50, tasks=1)
    suite.update(*rows)
    assert list(suite.compute()["a"]) == ["log_loss", "auc"]
    without_users = MetricSuite(["a"])
    without_users.update(*rows[:3])
    assert without_users.compute()["a"].keys().isdisjoint({*GROUPED_METRICS, "hit_at_1"})


@pytest.mark.parametrize("weighted", [False, True])
def test_values_are_the_published_ones_for_any_batches(weighted: bool) -> None:
    golden = load_file(GOLDEN / "metrics_input.safetensors")
    expected = json.loads((GOLDEN / "scalars.json").read_text())["metrics"]
    weights = golden["weight"] if weighted else torch.ones(4096)
    kind = "weighted" if weighted else "unweighted"
    rows = (
        golden["probability"][:, None],
        golden["label"][:, None],
        weights[:, None],
        torch.zeros(4096).long(),
    )
    for cuts in ([], [1, 7, 1000], list(range(64, 4096, 64))):
        metrics = compute(rows, cuts)["task0"]
        assert metrics["rce"] == pytest.approx(expected[f"rce_{kind}"], rel=1e-4, abs=1e-5)
        assert metrics["nrce"] == pytest.approx(expected[f"nrce_one_batch_{kind}"], rel=1e-4, abs=1e-5)
        assert metrics["auc"] == pytest.approx(expected[f"sklearn_auroc_{kind}"], abs=1e-9)
        assert metrics["auc"] == pytest.approx(expected[f"auroc_{kind}"], abs=1e-5)
        log_loss_name = "sklearn_log_loss_weighted" if weighted else "sklearn_log_loss"
        assert metrics["log_loss"] == pytest.approx(expected[log_loss_name], abs=1e-6)


@settings(max_examples=60)
@given(
    st.integers(0, 120),
    st.integers(0, 10**6),
    st.booleans(),
    st.lists(st.integers(0, 120), max_size=4),
    st.sampled_from([0, 40, 1000]),
)
def test_metrics_do_not_depend_on_batches_merges_and_order(
    count: int, seed: int, ties: bool, cuts: list[int], max_rows: int
) -> None:
    rows = make_rows(count, seed, ties=ties)
    whole = compute(rows, max_rows=max_rows)
    assert_equal_metrics(whole, compute(rows, sorted(cuts), max_rows))
    if count > max_rows:  # the sample of users depends on the order of rows
        whole = {task: without_lists(metrics) for task, metrics in whole.items()}
    shuffled = torch.randperm(count)
    assert_equal_metrics(whole, compute(tuple(tensor[shuffled] for tensor in rows), sorted(cuts), max_rows))  # type: ignore[arg-type]
    parts = [MetricSuite(["task0", "task1"], max_rows=max_rows, intervals=False) for _ in range(3)]
    for index, part in enumerate(parts):
        part.update(*(tensor[index::3] for tensor in rows))
    parts[2].merge(parts[1])
    parts[0].merge(parts[2])
    assert_equal_metrics(whole, parts[0].compute())


@settings(max_examples=40)
@given(st.integers(10, 200), st.integers(0, 10**6), st.booleans())
def test_scikit_learn_agrees(count: int, seed: int, ties: bool) -> None:
    probabilities, labels, weights, users = make_rows(count, seed, tasks=1, ties=ties)
    labels[0], labels[1], weights[:2] = 0, 1, 1.0
    metrics = compute((probabilities, labels, weights, users))["task0"]
    truth, score, weight = (tensor[:, 0].double().numpy() for tensor in (labels, probabilities, weights))
    counted = weight > 0
    truth, score, weight = truth[counted], score[counted], weight[counted]
    assert metrics["auc"] == pytest.approx(roc_auc_score(truth, score, sample_weight=weight))
    assert metrics["pr_auc"] == pytest.approx(average_precision_score(truth, score, sample_weight=weight))
    assert metrics["log_loss"] == pytest.approx(log_loss(truth, score, sample_weight=weight))
    assert metrics["brier"] == pytest.approx(brier_score_loss(truth, score, sample_weight=weight))


@settings(max_examples=25)
@given(st.integers(1, 15), st.integers(1, 12), st.integers(0, 10**6), st.integers(1, 3))
def test_scikit_learn_agrees_on_the_error_of_bins_of_equal_weight(size: int, bins: int, seed: int, times: int) -> None:
    random = np.random.default_rng(seed)
    scores, labels = random.permutation(size * bins) / (size * bins) + 1e-3, random.integers(0, 2, size * bins)
    rates, means = calibration_curve(labels, scores, n_bins=bins, strategy="quantile")
    weights = torch.full((size * bins * times, 1), 0.5)
    for max_rows in (MAX_ROWS, 0):
        suite = MetricSuite(["a"], ["ece"], config=MetricsConfig(calibration_bins=bins), max_rows=max_rows)
        columns = [torch.from_numpy(np.repeat(column, times))[:, None] for column in (scores, labels)]
        suite.update(*columns, weights)
        assert suite.compute()["a"]["ece"] == pytest.approx(np.abs(rates - means).mean(), abs=1e-6)


@settings(max_examples=25)
@given(st.integers(20, 300), st.integers(0, 10**6), st.booleans())
def test_binned_metrics_stay_within_their_bounds(count: int, seed: int, ties: bool) -> None:
    rows = make_rows(count, seed, ties=ties)
    rows[1][0], rows[1][1], rows[2][:2] = 0, 1, 1.0
    exact, binned = compute(rows), compute(rows, max_rows=0)
    for task, metrics in binned.items():
        assert abs(metrics["auc"] - exact[task]["auc"]) <= metrics["auc_bound"] + 1e-9
        assert exact[task]["auc_bound"] == 0
        assert abs(metrics["pr_auc"] - exact[task]["pr_auc"]) <= metrics["pr_auc_bound"] + 1e-9
        assert abs(metrics["nrce"] - exact[task]["nrce"]) <= metrics["nrce_bound"] + 1e-6


@pytest.mark.parametrize("max_rows", [MAX_ROWS, 0])
def test_the_interval_of_the_calibration_error_is_that_of_leaving_out_buckets(max_rows: int) -> None:
    *rows, users = make_rows(3000, tasks=1)
    rows[0] = rows[0] * 0.8
    suite = MetricSuite(["a"], ["ece"], max_rows=max_rows)
    suite.update(*rows, users)
    buckets = bucket_of(users)
    without = []
    for bucket in buckets.unique():
        others = MetricSuite(["a"], ["ece"], intervals=False)
        others.update(*(column[buckets != bucket] for column in rows))
        without.append(others.compute()["a"]["ece"])
    estimate = suite.result().estimates["a"]["ece"]
    expected = Estimate(estimate.value, np.array(without)).standard_error
    assert estimate.standard_error == pytest.approx(expected, rel=0.1)


def test_bins_resolve_rare_rates() -> None:
    rates = torch.logspace(-6, -0.001, 2000, dtype=torch.float64)[:, None]
    suite = MetricSuite(["a"], ["auc_bound"], max_rows=0)
    suite.update(rates, (torch.arange(2000) % 2)[:, None], torch.ones_like(rates))
    assert suite.compute()["a"]["auc_bound"] < 1e-3


def slow_grouped_auc(users: Tensor, scores: Tensor, labels: Tensor, weights: Tensor) -> float:
    areas, sizes = [], []
    for user in users.unique():
        mine = (users == user) & (weights > 0)
        if len(labels[mine].unique()) == 2:
            areas.append(roc_auc_score(labels[mine], scores[mine], sample_weight=weights[mine]))
            sizes.append(weights[mine].sum().item())
    return float(np.average(areas, weights=sizes)) if areas else math.nan


@settings(max_examples=25)
@given(st.integers(1, 150), st.integers(0, 10**6), st.booleans())
def test_grouped_auc_is_the_mean_over_users_of_their_own_auc(count: int, seed: int, ties: bool) -> None:
    probabilities, labels, weights, users = make_rows(count, seed, tasks=1, ties=ties)
    columns = [tensor[:, 0] for tensor in (probabilities, labels, weights)]
    family = ListMetrics((1,), (1,))
    totals = family.totals(ListRows(users.numpy(), torch.stack(columns)[:, None].numpy()))
    value = values(family, totals)["grouped_auc"].item()
    assert value == pytest.approx(slow_grouped_auc(users, *(column.double() for column in columns)), nan_ok=True)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("labels", [[], [0.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_edge_cases_give_nan_or_numbers_but_never_raise(labels: list[float], weight: float) -> None:
    column = torch.tensor(labels)[:, None]
    rows = (column.clone(), column, torch.full_like(column, weight), torch.zeros(len(labels)).long())
    metrics = compute(rows)["task0"]
    assert metrics["count"] == (len(labels) if weight else 0)
    one_class = len(set(labels)) < 2 or not weight
    for name in ("auc", "ne", "rce", "nrce", "grouped_auc", "auc_se"):
        assert math.isnan(metrics[name]) == one_class, name
    for name in ("ece", "brier", "log_loss"):
        assert math.isnan(metrics[name]) == (metrics["count"] == 0), name
    for name in ("ndcg_at_10", "reciprocal_rank", "hit_at_1"):
        assert math.isnan(metrics[name]) == (metrics["positives"] == 0), name
    if not one_class:
        assert metrics["auc"] == metrics["ndcg_at_10"] == 1
        assert metrics["ece"] == metrics["brier"] == 0
        assert metrics["log_loss"] == pytest.approx(1e-7, rel=1e-3)


def test_rows_of_weight_zero_change_nothing() -> None:
    rows = make_rows(200)
    more = make_rows(70, seed=1)
    more[2].zero_()
    both = tuple(torch.cat([left, right]) for left, right in zip(rows, more, strict=True))
    assert_equal_metrics(compute(rows), compute(both))  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [math.nan, -0.1, 1.5, math.inf])
def test_an_impossible_probability_is_refused_with_its_task(value: float) -> None:
    rows = make_rows(5)
    rows[0][3, 1] = value
    with pytest.raises(RunError, match="task 'b': predicted probability"):
        MetricSuite(["a", "b"]).update(*rows)


def test_the_standard_error_of_an_auc_is_that_of_hanley_and_mcneil() -> None:
    # The worked example of the paper: AUC 0.893 over 51 abnormal and 58 normal cases has a standard error of 0.032.
    assert auc_standard_error(0.893, 51, 58) == pytest.approx(0.032, abs=1e-3)
    assert math.isnan(auc_standard_error(0.5, 0, 10))
