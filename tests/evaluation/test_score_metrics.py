"""The metrics of the final score: the order it gives to lists, and what each task adds."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from recap.evaluation.metrics.buckets import BUCKETS, bucket_of
from recap.evaluation.metrics.score import MIN_LISTS, ScoreSums
from recap.evaluation.metrics.whole_lists import WholeLists

TASKS = ("like", "share", "report")
WEIGHTS = torch.tensor([1.0, 0.0, -5.0], dtype=torch.float64)


def rows(count: int, users: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Rows of `ScoreSums.update`, with ties and some weights of 0."""
    random = np.random.default_rng(seed)
    predictions = random.random((count, 3)).round(1)
    return {
        "predictions": torch.from_numpy(predictions),
        "labels": torch.from_numpy((random.random((count, 3)) < 0.3).astype(np.float64)),
        "weights": torch.from_numpy(random.integers(0, 4, (count, 3)).astype(np.float64).clip(max=2)),
        "score": torch.from_numpy(predictions.round(1) @ WEIGHTS.numpy().round(1)).round(decimals=6),
        "lists": torch.from_numpy(random.integers(0, users, count)),
    }


def sums(values: dict[str, torch.Tensor], max_rows: int = 10_000) -> ScoreSums:
    made = ScoreSums(TASKS, WEIGHTS, (1, 3), max_rows)
    made.update(**values, buckets=bucket_of(values["lists"]))
    return made


def test_the_order_of_lists_is_measured_as_by_scikit_learn() -> None:
    values = rows(400, 90)
    estimates = sums(values).estimates()
    columns = {name: column.numpy() for name, column in values.items()}
    engagement = (columns["labels"] * columns["weights"]) @ WEIGHTS.numpy()
    counted = (columns["weights"][:, [0, 2]] > 0).any(axis=1)
    ndcgs, shown, gained, best, random = [], 0, 0.0, 0.0, 0.0
    gain, room, short = 0.0, 0.0, 0  # of lists of more than 3 rows; the number of others
    for user in np.unique(columns["lists"]):
        mine = counted & (columns["lists"] == user)
        if mine.sum() < 2:
            continue
        gains, scores = engagement[mine], columns["score"][mine]
        if (gains > 0).any():
            ndcgs.append(ndcg_score([gains.clip(0)], [scores]))
        first = min(3, len(gains))
        mine_gained, mine_best = first_of(gains, scores, first), np.sort(gains)[::-1][:first].sum()
        mine_random = gains.mean() * first
        shown, gained, best, random = shown + first, gained + mine_gained, best + mine_best, random + mine_random
        short += len(gains) <= 3
        if len(gains) > 3:
            gain, room = gain + mine_gained - mine_random, room + mine_best - mine_random
    assert estimates["ndcg"].value == pytest.approx(np.mean(ndcgs))
    found = [estimates[name].value for name in ("engagement_3", "best_3", "random_3")]
    assert found == pytest.approx([gained / shown, best / shown, random / shown])
    assert short > 3
    assert estimates["uplift_3"].value == pytest.approx(gain / room)


def first_of(gains: np.ndarray, scores: np.ndarray, count: int) -> float:
    """The mean, over many orders of the ties, of the sum of the first `count` gains."""
    total, left = 0.0, float(count)
    for score in np.unique(scores)[::-1]:
        tied = gains[scores == score]
        total += tied.mean() * min(left, len(tied))
        left -= min(left, len(tied))
    return total


@pytest.mark.parametrize(("lists", "defined"), [(MIN_LISTS - 1, False), (MIN_LISTS, True)])
def test_uplift_is_of_lists_of_more_rows_than_ranks_and_undefined_for_few(lists: int, defined: bool) -> None:
    values = rows(4 * lists, 1) | {"weights": torch.ones(4 * lists, 3, dtype=torch.float64)}
    values["lists"] = torch.arange(lists).repeat(4)
    alone = sums(values).estimates()["uplift_3"].value
    short = rows(300, 1, seed=1) | {"lists": 1000 + torch.arange(100).repeat(3)}
    with_short = sums({name: torch.cat([values[name], short[name]]) for name in values}).estimates()["uplift_3"].value
    assert math.isfinite(alone) == defined
    assert with_short == pytest.approx(alone, nan_ok=True)


def test_each_task_adds_its_mean_weighted_prediction() -> None:
    values = rows(300, 40) | {"weights": torch.ones(300, 3, dtype=torch.float64)}
    estimates = sums(values).estimates()
    like, report = (values["predictions"].mean(dim=0) * WEIGHTS.abs())[[0, 2]].tolist()
    assert "contribution/share" not in estimates
    assert estimates["contribution/report"].value == pytest.approx(report)
    assert estimates["share/report"].value == pytest.approx(report / (like + report))


def test_replicates_leave_out_the_users_of_a_bucket() -> None:
    values = rows(500, 200)
    buckets = bucket_of(values["lists"])
    estimates = sums(values).estimates()
    occupied = sorted(set(buckets.tolist()))
    without = sums({name: column[buckets != occupied[3]] for name, column in values.items()}).estimates()
    for name, estimate in estimates.items():
        assert estimate.buckets == len(occupied)
        assert estimate.replicates[3] == pytest.approx(without[name].value)
    assert 0 < estimates["ndcg"].half_width() < 0.2


@given(st.integers(0, 10), st.integers(1, 99), st.sampled_from([30, 60, 10_000]))
def test_parts_and_their_order_do_not_matter(seed: int, cut: int, max_rows: int) -> None:
    values = rows(100, 20, seed)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(100))
    first = sums({name: column[order[:cut]] for name, column in values.items()}, max_rows)
    first.merge(sums({name: column[order[cut:]] for name, column in values.items()}, max_rows))
    whole = {name: estimate.value for name, estimate in sums(values, max_rows).estimates().items()}
    assert {name: estimate.value for name, estimate in first.estimates().items()} == pytest.approx(whole, nan_ok=True)


def test_without_lists_only_the_tasks_are_measured() -> None:
    values = rows(100, 20)
    lists = values.pop("lists")
    made = ScoreSums(TASKS, WEIGHTS, (1,))
    made.update(**values, buckets=torch.arange(100) % BUCKETS)
    names = {f"{name}/{task}" for name in ("contribution", "share") for task in ("like", "report")}
    assert set(made.estimates()) == names
    alone = ScoreSums(TASKS, WEIGHTS, (1,))
    alone.update(**values, buckets=lists % BUCKETS, lists=torch.arange(100))
    estimates = alone.estimates()
    assert estimates["lists"].value == 0
    assert math.isnan(estimates["ndcg"].value)
    assert math.isnan(estimates["uplift_1"].value)


def test_whole_lists_are_drawn_in_any_order() -> None:
    random = np.random.default_rng(0)
    ids, values = random.integers(0, 300, 2000), random.random((2000, 2), np.float32)
    drawn = []
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(2000)
        lists, other = WholeLists(2, 400, longest=5), WholeLists(2, 400, longest=5)
        for start in range(0, 1000, 100):
            lists.add(ids[order[start : start + 100]], values[order[start : start + 100]])
        other.add(ids[order[1000:]], values[order[1000:]])
        lists.merge(other)
        rows = lists.rows().first(5)
        drawn.append((lists.share, rows.draws.tolist(), rows.values.tolist()))
    assert drawn[0] == drawn[1] == drawn[2]
    share, draws, _ = drawn[0]
    assert share in (0.125, 0.25)
    _, sizes = np.unique(np.array(draws, np.uint64), return_counts=True)
    assert len(sizes) == pytest.approx(300 * share, rel=0.4)
    assert sizes.max() == 5
