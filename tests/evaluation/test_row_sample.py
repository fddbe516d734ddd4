"""The rows in memory: all of them, or all rows of a sample of users, which depends on the set of rows alone."""

import numpy as np
import pytest
import torch
from evaluation.test_binary_metrics import make_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from recap.evaluation.metrics.rows import RowSample


def contents(rows: RowSample) -> list[list[float]]:
    """The rows of both tasks, sorted."""
    first, second = rows.of_task(0), rows.of_task(1)
    return sorted(np.stack([*first, *second[1:]], axis=1).tolist())


@settings(max_examples=40)
@given(st.integers(1, 400), st.integers(0, 10**6), st.lists(st.integers(0, 400), max_size=5), st.booleans())
def test_the_sample_depends_on_the_rows_alone(count: int, seed: int, cuts: list[int], has_users: bool) -> None:
    predictions, labels, weights, users = make_rows(count, seed)
    one, many, merged, other = (RowSample(2, max_rows=100) for _ in range(4))

    def add(rows: RowSample, part: torch.Tensor) -> None:
        rows.add(predictions[part], labels[part], weights[part], users[part] if has_users else None)

    add(one, torch.arange(count))
    for part in torch.randperm(count).tensor_split(sorted(cuts)):
        add(many, part)
        add(merged if len(part) % 2 else other, part)
    merged.merge(other)
    assert len(one) <= 100
    assert one.is_complete == (count <= 100)
    assert one.has_users == has_users
    for rows in (many, merged):
        assert rows.level == one.level
        assert contents(rows) == contents(one)


def test_a_sampled_user_has_all_rows() -> None:
    predictions, labels, weights, users = make_rows(1000)
    rows = RowSample(2, max_rows=300)
    rows.add(predictions, labels, weights, users)
    sample = torch.from_numpy(rows.of_task(0).users)
    assert 100 < len(sample) <= 300
    assert all((sample == user).sum() == (users == user).sum() for user in sample.unique())


@pytest.mark.parametrize("has_users", [True, False])
def test_a_user_with_too_many_rows_is_left_out(has_users: bool) -> None:
    column, rows = torch.ones(50, 2), RowSample(2, max_rows=10)
    rows.add(column, column, column, torch.zeros(50, dtype=torch.int64) if has_users else None)
    assert len(rows) == len(rows.of_task(0).labels) == 0
    assert not rows.is_complete


def test_rows_without_a_user_among_others_leave_the_rows_without_users() -> None:
    predictions, labels, weights, users = make_rows(20)
    rows = RowSample(2)
    rows.add(predictions, labels, weights, users)
    rows.add(predictions, labels, weights)
    assert not rows.has_users
    assert len(rows.of_task(1).predictions) == 40
