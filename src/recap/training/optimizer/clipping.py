"""Gradient clipping over all parameters together. `recap.config.optimizer` describes each kind."""

import math
from collections.abc import Iterable
from typing import assert_never

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from recap.config.optimizer import ClippingConfig, NormClippingConfig, ValueClippingConfig
from recap.native.torch_private import foreach_clamp_, foreach_mul_
from recap.training.optimizer.rows import touched_rows


@torch.no_grad()
def clip_gradients(config: ClippingConfig, parameters: Iterable[nn.Parameter]) -> float:
    """Clip the gradients of `parameters` in place; return their total L2 norm before clipping.

    Parameters without a gradient are skipped; of a sparse gradient only the stored rows are read. With a non-finite
    norm nothing is clipped, because that would hide the error.
    """
    gradients = [_values(parameter) for parameter in parameters if parameter.grad is not None]
    norm = get_total_norm(gradients).item()
    if not math.isfinite(norm):
        return norm
    match config:
        case NormClippingConfig():
            if norm > config.max_norm:
                foreach_mul_(gradients, config.max_norm / norm)
        case ValueClippingConfig():
            foreach_clamp_(gradients, config.max_value)
        case _:
            assert_never(config)
    return norm


def _values(parameter: nn.Parameter) -> Tensor:
    """The values of the gradient, to change in place; those of a sparse one are first summed by row."""
    gradient = parameter.grad
    assert gradient is not None
    if not gradient.is_sparse:
        return gradient
    rows, values = touched_rows(gradient)
    summed = torch.sparse_coo_tensor(rows[None], values, gradient.shape, check_invariants=False, is_coalesced=True)
    parameter.grad = summed
    return summed.values()
