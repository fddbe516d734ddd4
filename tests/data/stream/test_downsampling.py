"""Sampling while reading keeps weighted sums unbiased."""

from itertools import combinations
from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recap.config.data import DownsampleNegativesConfig
from recap.data.batch import Batch
from recap.data.stream.downsampling import NegativeSampler


def batch_of(like: list[int], share: list[int] | None = None, weights: Any = 1.0) -> Batch:
    """Rows identified by their only vector value: 0, 1, 2, …"""
    rows = len(like)
    labels = torch.tensor([like, share if share is not None else [0] * rows], dtype=torch.float32).T
    return Batch(
        continuous=torch.zeros(rows, 0),
        binary=torch.zeros(rows, 0),
        discrete=torch.zeros(rows, 0, dtype=torch.int64),
        vectors={"row": torch.arange(rows, dtype=torch.float32)[:, None]},
        labels=labels,
        weights=torch.ones(rows, 2) * torch.as_tensor(weights, dtype=torch.float32),
    )


def sampler(batch_rows: int, multiplier: int, seed: int = 0, tasks: tuple[str, ...] = ("like",)) -> NegativeSampler:
    config = DownsampleNegativesConfig(batch_multiplier=multiplier, keep_positives_of=list(tasks))
    return NegativeSampler(config, ["like", "share"], batch_rows, seed)


def rows_of(batch: Batch) -> list[int]:
    return [int(row) for row in batch.vectors["row"][:, 0]]


shapes = st.integers(1, 6).flatmap(
    lambda rows: st.integers(2, 4).flatmap(
        lambda times: st.tuples(
            st.just(rows), st.just(times), st.lists(st.integers(0, 1), min_size=rows * times, max_size=rows * times)
        )
    )
)


@given(shapes)
def test_a_row_weighs_the_inverse_of_its_sampling_probability(shape: tuple[int, int, list[int]]) -> None:
    """Sampled with probability sampled / read, a row weighs read / sampled: its expected weight is exactly 1."""
    batch_rows, multiplier, labels = shape
    sampled = sampler(batch_rows, multiplier)(batch_of(labels), position=0)
    assert len(sampled) == batch_rows
    assert sampled.labels is not None
    assert sampled.weights is not None
    weighed = 0.0
    for value in (0, 1):
        stratum = sampled.labels[:, 0] == value
        read, count = labels.count(value), int(stratum.sum())
        assert (count > 0) == (read > 0) or batch_rows == 1  # one row cannot represent both
        assert torch.allclose(sampled.weights[stratum], torch.tensor(read / max(count, 1)))
        weighed += float(sampled.weights[stratum, 0].sum())
    if batch_rows > 1:
        assert abs(weighed - len(labels)) < 1e-4  # the total is exact, not only in expectation


@settings(max_examples=15)
@given(
    st.lists(st.integers(0, 1), min_size=6, max_size=6),
    st.lists(st.floats(-100, 100, width=32), min_size=6, max_size=6),
)
def test_the_weighted_sum_of_any_function_of_the_rows_is_unbiased(labels: list[int], function: list[float]) -> None:
    """Over many draws every row's mean weight is 1, whether or not positives exceed the step."""
    draws = 1500
    batch, sums = batch_of(labels), np.zeros(6)
    sample = sampler(batch_rows=2, multiplier=3)
    for position in range(draws):
        sampled = sample(batch, position)
        assert sampled.weights is not None
        np.add.at(sums, rows_of(sampled), sampled.weights[:, 0].numpy())
    # The deviation of a mean weight is at most √((6 - 1) / draws) = 0.058; five of them are allowed.
    assert np.abs(sums / draws - 1).max() < 0.29
    assert abs(sums @ function / draws - sum(function)) < 0.29 * np.abs(function).sum() + 1e-6


def test_all_samples_of_a_stratum_are_equally_likely() -> None:
    batch, counts = batch_of([1, 0, 0, 0, 0, 0]), dict.fromkeys(combinations(range(1, 6), 2), 0)
    sample = sampler(batch_rows=3, multiplier=2)
    for position in range(5000):
        rows = rows_of(sample(batch, position))
        assert rows[0] == 0
        counts[rows[1], rows[2]] += 1
    assert min(counts.values()) > 500 * 0.8
    assert max(counts.values()) < 500 * 1.2


def test_all_positives_are_kept_while_they_leave_negatives_their_share() -> None:
    few = sampler(4, 3)(batch_of([1, 1] + [0] * 10), 0)
    assert rows_of(few)[:2] == [0, 1]
    assert few.weights is not None
    assert few.weights[:, 0].tolist() == [1, 1, 5, 5]
    many = sampler(4, 2)(batch_of([1] * 6 + [0] * 2), 0)
    assert sum(row < 6 for row in rows_of(many)) == 2  # negatives get at least half of the step
    assert many.weights is not None
    assert many.weights[:, 0].tolist() == [3, 3, 1, 1]


def test_a_row_is_positive_if_any_of_the_tasks_is() -> None:
    labels = batch_of([1] + [0] * 7, [0, 1] + [0] * 6)
    assert rows_of(sampler(4, 2, tasks=("like", "share"))(labels, 0))[:2] == [0, 1]


def test_existing_weights_are_multiplied() -> None:
    sampled = sampler(2, 2)(batch_of([1, 0, 0, 0], weights=[[2.0, 0.0]]), 0)
    assert sampled.weights is not None
    assert sampled.weights.tolist() == [[2, 0], [6, 0]]


def test_the_sample_follows_seed_and_position() -> None:
    batch = batch_of([0] * 100)
    samples = [rows_of(sampler(10, 10, seed)(batch, position)) for seed, position in ((0, 0), (0, 0), (0, 7), (1, 0))]
    assert samples[0] == samples[1]
    assert samples[0] != samples[2]
    assert samples[0] != samples[3]
