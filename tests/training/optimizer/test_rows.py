"""Steps over the rows of a batch, against steps over whole tables, torch's own and slow versions."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter
from torch import Tensor, nn
from torch.testing import assert_close

from recap.config.optimizer import TableAlgorithmConfig
from recap.training.optimizer.algorithms import build_algorithm
from recap.training.optimizer.rows import RowOptimizer, touched_rows

ROWS, WIDTH, RATE = 7, 3, 0.1
SAME: dict[str, dict[str, Any]] = {
    "sgd": {"kind": "sgd"},
    "adagrad": {"kind": "adagrad", "epsilon": 1e-8},
    "adagrad_that_starts_above_0": {"kind": "adagrad", "initial_accumulator_value": 0.3},
    "rowwise_adagrad": {"kind": "rowwise_adagrad"},
    "rowwise_adagrad_that_starts_above_0": {"kind": "rowwise_adagrad", "initial_accumulator_value": 0.3},
}
"""Algorithms whose sparse steps equal dense ones."""
ADAM = {"kind": "adam", "beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-12}
Ids = list[list[int]]
several_steps = st.lists(st.lists(st.integers(0, ROWS - 1), min_size=1, max_size=9), min_size=1, max_size=5)
"""The rows that each step looks up: some repeatedly, some never."""


def read(values: dict[str, Any]) -> TableAlgorithmConfig:
    return TypeAdapter(TableAlgorithmConfig).validate_python(values)


def table(*, sparse: bool) -> nn.Embedding:
    torch.manual_seed(0)
    return nn.Embedding(ROWS, WIDTH, sparse=sparse)


def backward(embedding: nn.Embedding, ids: list[int]) -> None:
    """Set a gradient that differs by lookup: two micro-batches with two lookups each."""
    torch.manual_seed(len(ids))
    factors = torch.randn(len(ids), WIDTH)
    for part in (slice(None, None, 2), slice(1, None, 2)):
        codes = torch.tensor(ids[part], dtype=torch.int64)
        if len(codes):
            both = (embedding(codes) * factors[part]).sum() + embedding(codes.flip(0)).sin().sum()
            both.backward()  # type: ignore[no-untyped-call]


def moved(
    optimizer: Callable[[nn.Parameter], torch.optim.Optimizer], steps: Ids, *, sparse: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """The table and its optimizer state after these steps at `RATE`."""
    embedding = table(sparse=sparse)
    made = optimizer(embedding.weight)
    for ids in steps:
        made.zero_grad()
        backward(embedding, ids)
        made.param_groups[0]["lr"] = RATE
        made.step()
    return embedding.weight.detach(), made.state[embedding.weight]


def built(values: dict[str, Any], *, sparse: bool) -> Callable[[nn.Parameter], torch.optim.Optimizer]:
    return lambda weight: build_algorithm(read(values), [[weight]], sparse=sparse)


@pytest.mark.parametrize("name", SAME)
@given(steps=several_steps)
def test_sparse_steps_equal_dense_ones(name: str, steps: Ids) -> None:
    weights, state = moved(built(SAME[name], sparse=True), steps, sparse=True)
    expected, expected_state = moved(built(SAME[name], sparse=False), steps, sparse=False)
    assert_close(weights, expected)
    for key in state:
        assert_close(state[key], expected_state[key])


@given(steps=several_steps)
def test_lazy_adam_equals_torch(steps: Ids) -> None:
    weights, state = moved(built(ADAM, sparse=True), steps, sparse=True)
    expected, expected_state = moved(
        lambda weight: torch.optim.SparseAdam([weight], lr=RATE, betas=(0.8, 0.95), eps=1e-12), steps, sparse=True
    )
    # A second moment of about 0 leaves the direction to rounding.
    assert_close(weights, expected, atol=1e-4, rtol=1e-4)
    for key in ("exp_avg", "exp_avg_sq"):
        assert_close(state[key], expected_state[key], atol=1e-6, rtol=1e-5)


@given(st.integers(1, 5))
def test_lazy_adam_equals_adam_when_every_row_is_in_every_batch(count: int) -> None:
    steps = [list(range(ROWS))] * count
    adam = ADAM | {"epsilon": 0.1}
    weights, state = moved(built(adam, sparse=True), steps, sparse=True)
    expected, expected_state = moved(built(adam, sparse=False), steps, sparse=False)
    assert_close(weights, expected)
    assert state["step"] == expected_state["step"] == count


@pytest.mark.parametrize("sparse", [False, True])
@given(steps=several_steps)
def test_rowwise_adagrad_divides_a_row_by_the_root_of_its_summed_mean_squares(sparse: bool, steps: Ids) -> None:
    values = SAME["rowwise_adagrad_that_starts_above_0"]
    weights, state = moved(built(values, sparse=sparse), steps, sparse=sparse)
    embedding = table(sparse=False)
    slow, sums = embedding.weight.detach().double().numpy(), np.full(ROWS, 0.3)
    for ids in steps:
        with torch.no_grad():
            embedding.weight.copy_(torch.from_numpy(slow))
        embedding.weight.grad = None
        backward(embedding, ids)
        assert embedding.weight.grad is not None
        for row, gradient in enumerate(embedding.weight.grad.double().numpy()):
            sums[row] += sum(number**2 for number in gradient) / WIDTH
            slow[row] -= RATE * gradient / (sums[row] ** 0.5 + 1e-10)
    assert_close(weights.double().numpy(), slow, atol=1e-5, rtol=1e-5)
    assert_close(state["sum"].double().numpy(), sums, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("values", [*SAME.values(), ADAM])
def test_rows_in_no_batch_and_their_state_stay_bit_for_bit(values: dict[str, Any]) -> None:
    embedding = table(sparse=True)
    optimizer = built(values, sparse=True)(embedding.weight)
    optimizer.param_groups[0]["lr"] = RATE
    state: dict[str, Tensor] = {}
    for ids in ([0, 1, 2, 3], [5, 5, 6]):
        before = embedding.weight.detach().clone()
        state = {key: value.clone() for key, value in optimizer.state[embedding.weight].items()}
        optimizer.zero_grad()
        backward(embedding, ids)
        optimizer.step()
    changed = (embedding.weight != before).any(dim=1)
    assert changed.tolist() == [False] * 5 + [True] * 2
    for key, value in optimizer.state[embedding.weight].items():
        if value.dim():
            assert torch.equal(value[:5], state[key][:5])


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("lookups", [50, 5000])
def test_repeated_rows_are_summed_in_the_order_of_lookups(threads: int, lookups: int) -> None:
    ids = torch.randint(0, ROWS, (1, lookups), generator=torch.Generator().manual_seed(0))
    values = torch.randn(lookups, WIDTH, generator=torch.Generator().manual_seed(1))
    gradient = torch.sparse_coo_tensor(ids, values, (ROWS, WIDTH), check_invariants=True)
    torch.set_num_threads(threads)
    try:
        rows, sums = touched_rows(gradient)
    finally:
        torch.set_num_threads(1)  # as tests have it
    assert rows.tolist() == list(range(ROWS))
    slow = torch.zeros(ROWS, WIDTH)
    for row, value in zip(ids[0], values, strict=True):
        slow[row] += value
    assert torch.equal(sums, slow)


def test_a_dense_gradient_touches_its_nonzero_rows() -> None:
    gradient = torch.tensor([[0.0, 0.0], [0.0, 2.0], [0.0, 0.0], [torch.nan, 0.0]])
    rows, gradients = touched_rows(gradient)
    assert rows.tolist() == [1, 3]
    assert_close(gradients, gradient[[1, 3]], equal_nan=True)


def test_a_table_without_a_gradient_does_not_move() -> None:
    embedding = table(sparse=True)
    before = embedding.weight.detach().clone()
    optimizer = RowOptimizer([{"params": [embedding.weight], "lr": RATE}], read(ADAM))  # type: ignore[arg-type]
    optimizer.step()
    assert torch.equal(embedding.weight, before)
    assert not optimizer.state[embedding.weight]
