"""The differences of a board: from users and seeds, against slow and obvious versions."""

import math
from statistics import mean, variance

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from recap.boards.chart import chart
from recap.boards.page import difference_text, values_table
from recap.boards.record import Record, training_pace
from recap.boards.results import Change, Finished, Results, RowResults, change, changes
from recap.config.evaluation.board import BoardConfig
from recap.evaluation.metrics.estimate import Estimate, difference
from recap.evaluation.result import SplitResult

BOARD = BoardConfig.model_validate(
    {"title": "t", "runs": "runs", "tasks": ["a", "b"], "rows": {"one": {"config": "c"}, "other": {"config": "c"}}}
)
values = st.floats(0, 1, width=32)
sides = st.lists(st.tuples(values, st.lists(values, min_size=4, max_size=4)), min_size=1, max_size=5)


def estimates(side: list[tuple[float, list[float]]]) -> list[Estimate]:
    return [Estimate(value, np.array(replicates)) for value, replicates in side]


@given(sides, sides)
def test_an_interval_adds_the_squares_of_what_users_and_seeds_vary(
    one: list[tuple[float, list[float]]], other: list[tuple[float, list[float]]]
) -> None:
    found = change(estimates(one), estimates(other))
    ours, theirs = [value for value, _ in one], [value for value, _ in other]
    assert found.value == pytest.approx(mean(ours) - mean(theirs), abs=1e-9)
    per_bucket = np.mean([r for _, r in one], axis=0) - np.mean([r for _, r in other], axis=0)
    jackknife = math.sqrt(3 / 4 * ((per_bucket - per_bucket.mean()) ** 2).sum()) * stats.t.ppf(0.975, 3)
    parts = [(variance(side) / len(side), len(side) - 1) for side in (ours, theirs) if len(side) > 1]
    total = sum(part for part, _ in parts)
    welch = 0.0
    if total:
        freedom = math.floor(total**2 / sum(part**2 / count for part, count in parts) + 1e-9)
        welch = stats.t.ppf(0.975, max(1, freedom)) * math.sqrt(total)
    assert (found.high - found.low) / 2 == pytest.approx(math.hypot(jackknife, welch), rel=1e-5, abs=1e-9)


@given(sides)
def test_a_row_does_not_differ_from_itself_by_more_than_chance(side: list[tuple[float, list[float]]]) -> None:
    found = change(estimates(side), estimates(side))
    assert found.value == 0
    assert not found.is_certain


def test_with_one_seed_the_interval_is_that_of_recap_compare() -> None:
    one, other = Estimate(0.8, np.array([0.8, 0.79, 0.81])), Estimate(0.7, np.array([0.71, 0.7, 0.69]))
    found, expected = change([one], [other]), difference(one, other)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def row(*seeds: tuple[float, float], rows: str = "x") -> RowResults:
    """Runs with an AUC of task a and of task b for each seed."""
    finished = {}
    for seed, pair in enumerate(seeds):
        by_task = {task: {"auc": Estimate(value, np.full(3, value))} for task, value in zip("ab", pair, strict=True)}
        metrics = {task: {"auc": item["auc"].value} for task, item in by_task.items()}
        finished[seed] = Finished(Record("step_00000001"), SplitResult(metrics, rows=rows, estimates=by_task))
    return RowResults(finished)


def test_the_mean_is_over_tasks_in_each_seed() -> None:
    assert row((0.5, 0.7), (0.6, 0.9)).values(BOARD, "auc")["mean"] == pytest.approx([0.6, 0.75])
    found = changes(BOARD, row((0.5, 0.7), (0.7, 0.9)), row((0.4, 0.5)), "auc")
    assert found is not None
    assert {task: item.value for task, item in found.items()} == pytest.approx({"a": 0.2, "b": 0.3, "mean": 0.25})


def test_the_mean_may_be_of_some_tasks() -> None:
    board = BoardConfig.model_validate({**BOARD.model_dump(), "mean_of": ["b"]})
    assert row((0.5, 0.7)).values(board, "auc")["mean"] == [0.7]
    (estimate,) = row((0.5, 0.7)).estimates(board, "auc")["mean"]
    assert estimate.value == 0.7
    alone = BoardConfig.model_validate({**BOARD.model_dump(), "tasks": ["a"]})
    assert row((0.5, 0.7)).values(alone, "auc").keys() == row((0.5, 0.7)).estimates(alone, "auc").keys() == {"a"}


def test_rows_that_were_evaluated_on_other_data_are_not_compared() -> None:
    assert changes(BOARD, row((0.5, 0.7)), row((0.5, 0.7), rows="y"), "auc") is None


def test_a_difference_without_an_interval_is_a_number() -> None:
    change = Change(0.0123, math.nan, math.nan)
    assert not change.is_certain
    assert difference_text("auc", change) == "+0.0123"
    assert difference_text("auc", Change(math.nan, math.nan, math.nan)) == difference_text("auc", None) == "-"
    assert difference_text("auc", Change(0.2, 0.1, 0.3)) == "**+0.2000 [+0.1000, +0.3000]**"


def test_the_time_of_training_is_that_of_its_steps() -> None:
    lines = [
        {"split": "train", "step": 10, "examples_per_second": 50.0},
        {"split": "validation", "step": 10, "auc": 0.5},
        {"split": "train", "step": 30, "examples_per_second": 200.0},
        {"split": "train", "step": 31, "examples_per_second": None},
    ]
    assert training_pace(lines, rows_per_step=10) == pytest.approx((2 + 1, 300 / 3))
    assert training_pace([], 10) is None


def test_seeds_that_failed_alike_are_one_line() -> None:
    failed = {seed: f"runs/other-{seed}: its configuration changed" for seed in (0, 1)} | {2: "runs/other-2: killed"}
    results = Results({"one": row((0.5, 0.5)), "other": RowResults({}, failed)}, 6)
    assert results.failures == {
        "other, seeds 0, 1": "runs/other-*: its configuration changed",
        "other, seed 2": "runs/other-2: killed",
    }
    assert (results.failed, results.missing) == (3, 2)


def test_a_floor_is_in_the_tables_of_its_metrics_and_all_panels_have_the_same_rows() -> None:
    floors = {"last year": {"auc": {"a": 0.4, "b": 0.6}}}
    board = BOARD.model_copy(update={"metrics": ["auc", "log_loss"], "floors": floors})
    results = Results({"one": row((0.5, 0.5)), "other": RowResults({}, {0: "killed"})}, 2)
    assert "| last year |  | 0.4000 | 0.6000 | 0.5000 |" in values_table(board, results, "auc")
    assert "last year" not in values_table(board, results, "log_loss")
    panels = chart(board, results)["concat"]
    assert len(panels) == 6
    for panel in panels:
        points, _, failed = panel["layer"]
        assert points["encoding"]["y"]["scale"] == {"domain": ["last year", "one", "other"]}
        assert points["encoding"]["x"]["title"][1] == ("better →" if panel in panels[:3] else "← better")
        assert failed["data"]["values"] == [{"row": "other"}]
