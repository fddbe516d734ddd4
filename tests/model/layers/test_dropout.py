"""The dropout that replaces torch's on a CPU."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from recap.model.layers import Dropout

DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64])
RATES = st.floats(0.01, 0.99)


def dropped(inputs: Tensor, rate: float, seed: int = 0) -> Tensor:
    """`inputs` after dropout in training."""
    torch.manual_seed(seed)
    output: Tensor = Dropout(rate).train()(inputs)
    return output


@given(DTYPES, RATES, st.integers(0, 2**30))
def test_dropout_drops_at_its_rate_and_scales_the_rest(dtype: torch.dtype, rate: float, seed: int) -> None:
    count = 100_001  # not a multiple of the four values of one draw
    output = dropped(torch.ones(count, dtype=dtype), rate, seed)
    mask = output != 0
    deviation = (rate * (1 - rate) / count) ** 0.5
    assert abs(mask.double().mean().item() - (1 - rate)) < 6 * deviation
    assert torch.allclose(output[mask], torch.tensor(1 / (1 - rate), dtype=dtype), rtol=0.01)


@given(st.integers(1, 5), st.integers(1, 9), DTYPES)
def test_dropout_preserves_shape_and_dtype_and_masks_gradients(rows: int, columns: int, dtype: torch.dtype) -> None:
    inputs = torch.full((rows, columns), 2.0, dtype=dtype, requires_grad=True)
    output = dropped(inputs, 0.5)
    assert (output.shape, output.dtype) == (inputs.shape, dtype)
    output.sum().backward()
    assert inputs.grad is not None
    assert torch.equal(inputs.grad * 2, output)


def test_dropout_drops_the_same_values_for_every_dtype() -> None:
    outputs = [dropped(torch.ones(1001, dtype=dtype), 0.3) for dtype in (torch.float32, torch.bfloat16, torch.float64)]
    assert all(torch.equal(output != 0, outputs[0] != 0) for output in outputs)


def test_dropout_is_a_function_of_the_seed() -> None:
    inputs = torch.ones(1000)
    assert torch.equal(dropped(inputs, 0.3, 1), dropped(inputs, 0.3, 1))
    assert not torch.equal(dropped(inputs, 0.3, 1), dropped(inputs, 0.3, 2))


def test_dropped_values_are_uncorrelated_with_their_neighbours() -> None:
    mask = (dropped(torch.ones(200_000, dtype=torch.bfloat16), 0.5) != 0).double()
    for apart in (1, 2, 3, 4, 8):
        assert abs(torch.corrcoef(torch.stack([mask[:-apart], mask[apart:]]))[0, 1].item()) < 0.015


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_dropout_does_nothing_in_evaluation_or_at_rate_0(rate: float) -> None:
    inputs = torch.ones(100)
    assert torch.equal(Dropout(rate).eval()(inputs), inputs)
    assert torch.equal(dropped(inputs, 0.0), inputs)


def test_a_rate_just_below_1_drops_nearly_everything() -> None:
    output = dropped(torch.ones(10_000, dtype=torch.bfloat16), 1 - 1e-9)
    assert output.isfinite().all()
    assert (output == 0).double().mean() > 0.99
