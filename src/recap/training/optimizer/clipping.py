"""Gradient clipping, over all parameters together. What each kind is for stands in `recap.config.clipping`."""

import math
from collections.abc import Iterable
from typing import assert_never

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from recap.config.optimizer import ClippingConfig, NormClippingConfig, ValueClippingConfig


@torch.no_grad()
def clip_gradients(config: ClippingConfig, parameters: Iterable[nn.Parameter]) -> float:
    """Clip the gradients of `parameters` in place; their L2 norm before that.

    Parameters without a gradient are passed over, and of a sparse gradient only the rows it holds are read. Where the
    norm is not finite nothing is clipped, since that would make numbers that look good.
    """
    gradients = [_values(parameter) for parameter in parameters if parameter.grad is not None]
    norm = get_total_norm(gradients).item()
    if not math.isfinite(norm):
        return norm
    match config:
        case NormClippingConfig():
            if norm > config.max_norm:
                torch._foreach_mul_(gradients, config.max_norm / norm)
        case ValueClippingConfig():
            torch._foreach_clamp_min_(gradients, -config.max_value)
            torch._foreach_clamp_max_(gradients, config.max_value)
        case _:
            assert_never(config)
    return norm


def _values(parameter: nn.Parameter) -> Tensor:
    """The numbers of its gradient, to be changed in place; of a sparse one those of its rows, each once."""
    gradient = parameter.grad
    assert gradient is not None
    if not gradient.is_sparse:
        return gradient
    parameter.grad = gradient.coalesce() if gradient.device.type != "cpu" else _summed_rows(gradient)
    return parameter.grad.values()


def _summed_rows(gradient: Tensor) -> Tensor:
    """A sparse gradient [rows, …] whose repeated rows are summed in order; on a CPU `coalesce` leaves that open."""
    rows, places = torch.unique(gradient._indices()[0], return_inverse=True)
    found = gradient._values()  # [repeated rows, …]
    values = found.new_zeros(len(rows), *found.shape[1:]).index_add_(0, places, found)
    return torch.sparse_coo_tensor(rows[None], values, gradient.shape, check_invariants=False, is_coalesced=True)
