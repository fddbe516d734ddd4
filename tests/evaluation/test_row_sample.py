"""The rows in memory: all of them, or a sample that holds users whole or, if they have many rows, thinned."""

import numpy as np
import torch
from evaluation.test_binary_metrics import make_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from recap.evaluation.metrics.rows import RowSample


def contents(sample: RowSample) -> list[list[float]]:
    """The rows of both tasks, sorted."""
    (first, _), (second, _) = sample.of_task(0), sample.of_task(1)
    return sorted(np.stack([*first, *second[1:]], axis=1).tolist())


@settings(max_examples=40)
@given(st.integers(1, 400), st.integers(0, 10**6), st.lists(st.integers(0, 400), max_size=5), st.booleans())
def test_the_sample_does_not_depend_on_batches(count: int, seed: int, cuts: list[int], has_users: bool) -> None:
    predictions, labels, weights, users = make_rows(count, seed)
    one, many = RowSample(2, max_rows=100), RowSample(2, max_rows=100)

    def add(sample: RowSample, part: torch.Tensor) -> None:
        sample.add(predictions[part], labels[part], weights[part], users[part] if has_users else None)

    add(one, torch.arange(count))
    for part in torch.arange(count).tensor_split(sorted(cuts)):
        add(many, part)
    assert contents(many) == contents(one)
    assert len(one) == len(many) == min(count, 100)
    assert one.is_complete == many.is_complete == (count <= 100)
    assert (one.of_task(0)[1] is None) == (count <= 100)
    assert one.has_users == has_users


@settings(max_examples=40)
@given(st.integers(0, 300), st.integers(0, 300), st.integers(0, 300), st.integers(0, 10**6))
def test_merged_samples_are_the_same_in_every_order(first: int, second: int, third: int, seed: int) -> None:
    def sample(number: int) -> RowSample:
        made = RowSample(2, max_rows=100, seed=number)
        made.add(*make_rows([first, second, third][number], seed + number))
        return made

    left, right, last = sample(0), sample(2), sample(1)
    left.merge(sample(1))
    left.merge(sample(2))
    last.merge(sample(0))
    right.merge(last)
    assert contents(left) == contents(right)
    assert len(contents(left)) == min(first + second + third, 100)


def test_each_user_is_there_with_the_share_that_the_sampling_says() -> None:
    predictions, labels, weights, _ = make_rows(40_000)
    users = torch.arange(40_000) % 20  # 2,000 rows each
    sample = RowSample(2, max_rows=10_000)
    sample.add(predictions, labels, weights, users)
    rows, sampling = sample.of_task(0)
    assert sampling is not None
    for user in range(20):
        mine = rows.users == user
        share = min(1.0, sampling.limit / sampling.user_draws[mine][0])
        assert abs(mine.sum() / 2000 - share) < 0.05
        assert (mine.sum() == 2000) == (share == 1)


def test_rows_alike_without_users_are_sampled_alike() -> None:
    values = (torch.arange(30_000) % 3)[:, None].double()
    sample = RowSample(1, max_rows=6000)
    sample.add(values, values, torch.ones_like(values))
    counts = np.unique(sample.of_task(0)[0].predictions, return_counts=True)[1]
    assert (np.abs(counts - 2000) < 200).all()


def test_rows_without_a_user_among_others_leave_the_rows_without_users() -> None:
    predictions, labels, weights, users = make_rows(20)
    sample = RowSample(2)
    sample.add(predictions, labels, weights, users)
    sample.add(predictions, labels, weights)
    assert not sample.has_users
    assert len(sample.of_task(1)[0].predictions) == 40
