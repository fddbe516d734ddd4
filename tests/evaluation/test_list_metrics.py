"""Precision and recall at a threshold, and the ranks of positives in lists."""

import math
from itertools import pairwise, permutations

import numpy as np
import pytest
import torch
from evaluation.test_binary_metrics import make_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import label_ranking_average_precision_score, ndcg_score, precision_score, recall_score

from recap.config.evaluation.metrics import MetricsConfig
from recap.evaluation.metrics.buckets import bucket_of, values
from recap.evaluation.metrics.list_rows import ListRows
from recap.evaluation.metrics.lists import ListMetrics
from recap.evaluation.metrics.suite import MetricSuite

Columns = tuple[list[int], list[float], list[int]]


def of(
    users: list[int], scores: list[float], labels: list[int], weights: list[float] | None = None
) -> dict[str, float]:
    columns = np.array([scores, labels, weights or [1.0] * len(users)], np.float32)[:, None]
    family = ListMetrics((1, 3), (3,))
    totals = family.totals(ListRows(np.array(users, np.int64), columns))
    return {name: value.item() for name, value in values(family, totals).items() if name != "grouped_auc"}


def feed_of_a_heavy_user(seed: int, rows: int = 8000) -> tuple[torch.Tensor, ...]:
    """Half of the rows are of user 0, whom predictions rank worse than the others, each of a few rows."""
    random = np.random.default_rng(seed)
    users = np.where(np.arange(rows) < rows // 2, 0, random.zipf(1.5, rows) % (rows // 8) + 1)
    logits = random.normal(size=rows)
    labels = random.random(rows) < 1 / (1 + np.exp(1 - np.where(users == 0, 0.3, 3.0) * logits))
    order = random.permutation(rows)
    columns = (1 / (1 + np.exp(-logits[order])))[:, None], labels[order][:, None], random.random((rows, 1)) + 0.5
    return *map(torch.from_numpy, columns), torch.from_numpy(users[order])


@pytest.mark.parametrize("seed", range(6))
def test_list_metrics_of_a_sample_stay_within_their_bounds_and_a_heavy_user_within_the_sample(seed: int) -> None:
    rows, names = feed_of_a_heavy_user(seed), ["grouped_auc", "positive_rank", "reciprocal_rank", "hit_at", "ndcg_at"]
    exact, sampled = (MetricSuite(["a"], names, max_rows=limit, seed=seed) for limit in (10**6, 3000))
    exact.update(*rows)
    sampled.update(*rows)
    truth, estimates = exact.compute()["a"], sampled.compute()["a"]
    assert list(estimates) == [shown for name in truth for shown in (name, f"{name}_bound")]
    for name, value in truth.items():
        assert abs(estimates[name] - value) <= estimates[f"{name}_bound"], name
    assert estimates["grouped_auc_bound"] < 0.05  # without user 0 it would be off by 0.1


def orders_of(scores: list[float]) -> list[tuple[int, ...]]:
    """All orders of a list by descending score."""
    orders = permutations(range(len(scores)))
    return [order for order in orders if all(scores[one] >= scores[other] for one, other in pairwise(order))]


def slow_ranks(scores: list[float]) -> list[float]:
    """The mean rank of each row over all orders of its list by descending score."""
    orders = orders_of(scores)
    return [sum(order.index(row) + 1 for order in orders) / len(orders) for row in range(len(scores))]


def slow_ndcg(scores: list[float], labels: list[int], limit: int) -> float:
    """The mean over all orders of a list."""

    def dcg(gains: list[int]) -> float:
        return sum(gain / math.log2(place + 2) for place, gain in enumerate(gains[:limit]))

    orders = orders_of(scores)
    return sum(dcg([labels[row] for row in order]) for order in orders) / len(orders) / dcg(sorted(labels)[::-1])


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from([0.1, 0.2, 0.3]), st.integers(0, 1)), max_size=9))
def test_ranks_are_the_mean_over_all_orders_of_ties(rows: list[tuple[int, float, int]]) -> None:
    ranks, first, ndcg = [], [], []
    for user in {row[0] for row in rows}:
        mine = [row for row in rows if row[0] == user]
        all_ranks = slow_ranks([score for _, score, _ in mine])
        positives = [rank for rank, (_, _, label) in zip(all_ranks, mine, strict=True) if label]
        ranks += positives
        first += [min(positives)] if positives else []
        ndcg += [slow_ndcg([score for _, score, _ in mine], [label for *_, label in mine], 3)] if positives else []
    metrics = of(*map(list, zip(*rows, strict=True))) if rows else of([], [], [])  # type: ignore[arg-type]
    expected = {
        "positive_rank": np.mean(ranks) if ranks else math.nan,
        "reciprocal_rank": np.mean([1 / rank for rank in first]) if first else math.nan,
        "hit_at_1": np.mean([rank <= 1 for rank in first]) if first else math.nan,
        "hit_at_3": np.mean([rank <= 3 for rank in first]) if first else math.nan,
        "ndcg_at_3": np.mean(ndcg) if ndcg else math.nan,
    }
    assert metrics == pytest.approx(expected, nan_ok=True)


@settings(max_examples=40)
@given(st.integers(1, 30), st.integers(0, 10**6), st.integers(2, 5))
def test_a_negative_of_weight_w_is_w_negatives(count: int, seed: int, copies: int) -> None:
    random = np.random.default_rng(seed)
    users, labels = random.integers(0, 4, count), random.integers(0, 2, count)
    scores = random.integers(0, 6, count) / 8
    times = np.where(labels == 1, 1, random.integers(1, copies + 1, count))
    weighted = of(users.tolist(), scores.tolist(), labels.tolist(), times.astype(float).tolist())
    written_out = of(*(np.repeat(values, times).tolist() for values in (users, scores, labels)))
    assert weighted == pytest.approx(written_out, nan_ok=True)


@settings(max_examples=40)
@given(st.integers(2, 12), st.integers(0, 10**6), st.integers(1, 12), st.booleans())
def test_scikit_learn_agrees_on_ndcg_with_ties_and_whole_weights(count: int, seed: int, k: int, weigh: bool) -> None:
    random = np.random.default_rng(seed)
    scores, labels = random.integers(0, 4, count) / 8, random.integers(0, 2, count)
    labels[0] = 1
    times = random.integers(1, 4, count) if weigh else np.ones(count, int)
    family = ListMetrics((1,), (k,))
    columns = np.array([scores, labels, times], np.float32)[:, None]
    value = values(family, family.totals(ListRows(np.zeros(count, np.int64), columns)))[f"ndcg_at_{k}"]
    written_out = (np.repeat(column, times)[None] for column in (labels, scores))
    assert value.item() == pytest.approx(ndcg_score(*written_out, k=k))


def test_lists_may_be_others_than_those_of_users() -> None:
    rows, users = make_rows(200, tasks=1), torch.arange(200) // 20
    requests = torch.arange(200) // 10
    by_request, expected, alone = (MetricSuite(["a"], ["ndcg_at", "auc"]) for _ in range(3))
    by_request.update(*rows[:3], users, requests)
    expected.update(*rows[:3], requests)
    alone.update(*rows[:3], lists=requests)
    assert by_request.compute() == expected.compute() == alone.compute()
    by_user = MetricSuite(["a"], ["ndcg_at", "auc"])
    by_user.update(*rows[:3], users)
    auc, of_users = (suite.result().estimates["a"]["auc"].standard_error for suite in (by_request, by_user))
    assert auc == of_users != expected.result().estimates["a"]["auc"].standard_error
    assert by_request.compute()["a"]["ndcg_at_10"] != by_user.compute()["a"]["ndcg_at_10"]
    assert (by_request.result().users, alone.result().users) == (10, 20)


def test_a_metric_of_lists_without_a_bucket_is_that_of_the_other_users() -> None:
    *rows, users = make_rows(400, tasks=1)
    suite = MetricSuite(["a"], ["grouped_auc", "positive_rank", "reciprocal_rank", "hit_at", "ndcg_at"])
    suite.update(*rows, users)
    estimates = suite.result().estimates["a"]
    buckets = bucket_of(users)
    for number, bucket in enumerate(buckets.unique()):
        others = MetricSuite(["a"])
        others.update(*(column[buckets != bucket] for column in (*rows, users)))
        expected = others.compute()["a"]
        assert {name: item.replicates[number] for name, item in estimates.items()} == pytest.approx(
            {name: expected[name] for name in estimates}
        )


@settings(max_examples=25)
@given(st.integers(2, 8), st.integers(1, 12), st.integers(0, 10**6))
def test_scikit_learn_agrees_on_lists_of_one_positive(length: int, lists: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    scores = random.permuted(np.tile(np.arange(length) / length, (lists, 1)), axis=1)
    labels = np.eye(length, dtype=int)[random.integers(0, length, lists)]
    metrics = of(np.repeat(np.arange(lists), length).tolist(), scores.ravel().tolist(), labels.ravel().tolist())
    assert metrics["reciprocal_rank"] == pytest.approx(label_ranking_average_precision_score(labels, scores))
    best = scores.argmax(axis=1) == labels.argmax(axis=1)
    assert metrics["hit_at_1"] == pytest.approx(best.mean())


@settings(max_examples=25)
@given(st.integers(1, 120), st.integers(0, 10**6), st.sampled_from([0.1, 0.5, 0.9]))
def test_scikit_learn_agrees_on_precision_and_recall(count: int, seed: int, threshold: float) -> None:
    probabilities, labels, weights, _ = make_rows(count, seed, tasks=1)
    weights[0] = 1.0  # scikit-learn refuses rows that all weigh nothing
    suite = MetricSuite(["a"], ["precision", "recall"], config=MetricsConfig(threshold=threshold))
    suite.update(probabilities, labels, weights)
    metrics = suite.compute()["a"]
    truth, taken = labels[:, 0].numpy(), (probabilities[:, 0].double() >= threshold).numpy()
    options = {"sample_weight": weights[:, 0].double().numpy(), "zero_division": math.nan}
    assert metrics["precision"] == pytest.approx(precision_score(truth, taken, **options), nan_ok=True)
    assert metrics["recall"] == pytest.approx(recall_score(truth, taken, **options), nan_ok=True)


def test_chosen_ranks_are_reported_under_their_names() -> None:
    suite = MetricSuite(["a"], ["ndcg_at", "hit_at", "auc"], config=MetricsConfig(hit_at=[2, 5], ndcg_at=[7]))
    suite.update(*make_rows(40, tasks=1))
    assert list(suite.compute()["a"]) == ["auc", "hit_at_2", "hit_at_5", "ndcg_at_7"]


def test_without_a_positive_no_rank_is_defined() -> None:
    assert all(math.isnan(value) for value in of([1, 1], [0.5, 0.6], [0, 0]).values())
    assert all(math.isnan(value) for value in of([1], [0.5], [1], [0.0]).values())
    suite = MetricSuite(["a"])
    suite.update(*(torch.zeros(3, 1), torch.zeros(3, 1), torch.ones(3, 1), torch.zeros(3).long()))
    metrics = suite.compute()["a"]
    assert math.isnan(metrics["recall"])
    assert math.isnan(metrics["precision"])


def test_a_list_of_weights_that_vanish_beside_those_of_others_does_not_count() -> None:
    predictions = torch.tensor([0.9, 0.1, 0.9, 0.1], dtype=torch.float64)[:, None]
    labels, weights = (torch.tensor(column).double()[:, None] for column in ([1, 0, 0, 1], [1e20, 1e20, 1e-20, 1e-20]))
    suite = MetricSuite(["a"], ["grouped_auc"])
    suite.update(predictions, labels, weights, torch.tensor([1, 1, 2, 2]))
    assert suite.compute()["a"] == {"grouped_auc": 1.0}
