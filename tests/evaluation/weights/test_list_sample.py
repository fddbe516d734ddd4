"""A sample of lists, and what other weights do to it."""

import json

import numpy as np
import pytest
from evaluation.weights.lists import TASKS, WEIGHTS, sample_of
from scipy.stats import kendalltau

from recap.data.encoding.hashing import hash_ids
from recap.evaluation.metrics.whole_lists import ListedRows
from recap.evaluation.weights.lists import MAX_BYTES, ListSample

OTHER = {"like": 1.0, "report": -10.0, "watch_time": 0.01}


def test_lists_are_re_ranked_and_compared_with_the_order_of_today() -> None:
    sample = sample_of()
    now, then = sample.order(WEIGHTS), sample.order(OTHER)
    expected, likes, taus, kept = sample.expected(then), [], [], []
    attention = 0.0
    for number, (start, size) in enumerate(zip(sample.starts, sample.sizes, strict=True)):
        assert 5 <= size <= 30
        mine = slice(start, start + size)
        assert set(then[mine]) == set(range(start, start + size)), number
        scores = sum(weight * sample.predictions[mine, TASKS.index(task)] for task, weight in OTHER.items())
        assert np.array_equal(then[mine] - start, np.argsort(-scores, kind="stable"))
        shown = (np.arange(size) < 10) / np.log2(np.arange(size) + 2)
        attention += shown.sum()
        likes.append((shown * sample.predictions[then[mine], 0]).sum())
        places = [np.argsort(order[mine]) for order in (now, then)]
        taus.append(kendalltau(*places).statistic)
        kept.append(len({*now[mine][:5]} & {*then[mine][:5]}) / 5)
    assert expected["like"] == pytest.approx(1000 * sum(likes) / attention)
    assert sample.kendall(now, then) == pytest.approx(np.mean(taus))
    assert sample.overlap(now, then) == pytest.approx(np.mean(kept))
    assert sample.kendall(now, now) == sample.overlap(now, now) == 1


def test_equalized_weights_give_each_task_the_same_share() -> None:
    sample = sample_of()
    equal = sample.equalized()
    contributions = [abs(equal[task]) * sample.means[task] for task in WEIGHTS]
    assert contributions == pytest.approx([contributions[0]] * 3, rel=1e-3)
    assert sum(contributions) == pytest.approx(sum(abs(WEIGHTS[task]) * sample.means[task] for task in WEIGHTS), 1e-3)
    assert (equal["report"] < 0, "watch_time" in equal) == (True, False)


def test_a_sample_keeps_three_digits_and_comes_back_from_json() -> None:
    sample = sample_of()
    text = json.dumps(sample.to_json(), allow_nan=False)
    again = ListSample.from_json(json.loads(text))
    assert json.dumps(again.to_json()) == text
    assert np.array_equal(again.predictions, sample.predictions)
    assert np.array_equal(again.labels, sample.labels)
    assert (again.tasks, again.weights, again.regressions) == (TASKS, WEIGHTS, ["watch_time"])
    values = np.array([[1e-7, 0.5, 0], [0.3333333, 0, 1], [2e-5, 0.9, 1]] * 2, np.float32)
    rows = ListedRows(np.zeros(6, np.uint64), np.c_[values, values])
    stored = ListSample.of(rows, ["a", "b", "c"], {}, []).predictions
    assert np.sort(stored, axis=0) == pytest.approx(np.sort(values, axis=0), rel=5e-4)


@pytest.mark.parametrize("tasks", [1, 8, 40])
def test_a_sample_stays_small_for_any_number_of_tasks(tasks: int) -> None:
    random = np.random.default_rng(0)
    draws = np.repeat(hash_ids(np.arange(600)), 40)
    values = random.random((len(draws), 2 * tasks), np.float32)
    sample = ListSample.of(ListedRows(draws, values), [f"task {n}" for n in range(tasks)], {}, [], share=1 / 4)
    assert len(json.dumps(sample.to_json())) < MAX_BYTES + 8_000
    assert len(sample.sizes) == {1: 300, 8: 300, 40: 60}[tasks] or tasks == 8
    assert sample.lists == 2400
