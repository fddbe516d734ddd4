"""Dropout, which is our own."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from recap.model.layers import Dropout

DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64])
RATES = st.floats(0.01, 0.99)


def dropped(inputs: Tensor, rate: float, seed: int = 0) -> Tensor:
    """What a dropout in training makes of `inputs`."""
    torch.manual_seed(seed)
    output: Tensor = Dropout(rate).train()(inputs)
    return output


@given(DTYPES, RATES, st.integers(0, 2**30))
def test_dropout_drops_as_many_as_asked_and_raises_the_others(dtype: torch.dtype, rate: float, seed: int) -> None:
    count = 100_001  # no whole number of the draws that are made at once
    output = dropped(torch.ones(count, dtype=dtype), rate, seed)
    kept = output != 0
    deviation = (rate * (1 - rate) / count) ** 0.5
    assert abs(kept.double().mean().item() - (1 - rate)) < 6 * deviation
    assert torch.allclose(output[kept], torch.tensor(1 / (1 - rate), dtype=dtype), rtol=0.01)


@given(st.integers(1, 5), st.integers(1, 9), DTYPES)
def test_dropout_keeps_shape_and_dtype_and_gradients_of_what_it_kept(
    rows: int, columns: int, dtype: torch.dtype
) -> None:
    inputs = torch.full((rows, columns), 2.0, dtype=dtype, requires_grad=True)
    output = dropped(inputs, 0.5)
    assert (output.shape, output.dtype) == (inputs.shape, dtype)
    output.sum().backward()
    assert inputs.grad is not None
    assert torch.equal(inputs.grad * 2, output)


def test_dropout_drops_the_same_whatever_the_dtype() -> None:
    outputs = [dropped(torch.ones(1001, dtype=dtype), 0.3) for dtype in (torch.float32, torch.bfloat16, torch.float64)]
    assert all(torch.equal(output != 0, outputs[0] != 0) for output in outputs)


def test_dropout_is_a_function_of_the_seed() -> None:
    inputs = torch.ones(1000)
    assert torch.equal(dropped(inputs, 0.3, 1), dropped(inputs, 0.3, 1))
    assert not torch.equal(dropped(inputs, 0.3, 1), dropped(inputs, 0.3, 2))


def test_what_dropout_drops_in_one_place_says_nothing_of_the_next() -> None:
    kept = (dropped(torch.ones(200_000, dtype=torch.bfloat16), 0.5) != 0).double()
    for apart in (1, 2, 3, 4, 8):
        assert abs(torch.corrcoef(torch.stack([kept[:-apart], kept[apart:]]))[0, 1].item()) < 0.015


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_dropout_is_nothing_in_evaluation_nor_with_a_rate_of_0(rate: float) -> None:
    inputs = torch.ones(100)
    assert torch.equal(Dropout(rate).eval()(inputs), inputs)
    assert torch.equal(dropped(inputs, 0.0), inputs)


def test_a_rate_just_below_1_drops_all_but_a_few() -> None:
    output = dropped(torch.ones(10_000, dtype=torch.bfloat16), 1 - 1e-9)
    assert output.isfinite().all()
    assert (output == 0).double().mean() > 0.99
