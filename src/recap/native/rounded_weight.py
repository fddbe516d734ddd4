"""bf16 copies of float32 weights, kept beside them, so that a training step in bf16 rounds no weight again.

Autocast rounds every weight at each step, and widens every gradient to float32 for the optimizer: at batch 128, 23 of
the 97 ms of a step of the production shape, as `docs/benchmarks.md` records. With copies, the passes over its weights
and gradients take 132 ms in place of 150 on a core that has no bf16 instructions. The results are the same bit for bit.
`RECAP_PLAIN=1` turns it off; the fallback is autocast.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from recap.native import plain


def usable() -> bool:
    """Whether this version of torch has what copies need, and tricks are on."""
    return not plain() and hasattr(torch.Tensor, "grad_dtype") and hasattr(torch, "_fused_adam_")


class RoundedWeight:
    """The bf16 copy of a weight [out, in]."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight
        self._copy = torch.empty_like(weight, dtype=torch.bfloat16, requires_grad=False)  # [out, in]
        self._seen: tuple[int, int] | None = None
        """The memory and version of the weight that the copy equals."""

    def current(self) -> Tensor:
        """The copy, rounded again if the weight has other memory or another version: a checkpoint, a moving average.

        Torch does not count the steps of fused optimizers as versions; one that moves the weight must call `written`.
        """
        if self._seen != self._state():
            self._copy.copy_(self.weight.detach())
            self.written()
        return self._copy

    @property
    def memory(self) -> Tensor:
        """The copy as it is, for an optimizer to write; then call `written`."""
        return self._copy

    def written(self) -> None:
        """The copy equals the weight."""
        self._seen = self._state()

    def _state(self) -> tuple[int, int]:
        return self.weight.data_ptr(), self.weight._version

    def affine(self, rows: Tensor, bias: Tensor | None) -> Tensor:
        """W·x + b as under autocast: […, in] float32 or bf16, [out] float32 → […, out] bf16."""
        flat = rows.to(torch.bfloat16).reshape(-1, rows.shape[-1])
        rounded_bias = None if bias is None else bias.to(torch.bfloat16)
        with torch.autocast(rows.device.type, enabled=False):
            output: Tensor = _Affine.apply(flat, self.weight, self.current(), rounded_bias)  # type: ignore[no-untyped-call]
        return output.view(*rows.shape[:-1], output.shape[-1])


class _Affine(torch.autograd.Function):
    """The affine map with a copy of the weight; the weight itself gets the gradient."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, copy: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(rows, copy)
        return functional.linear(rows, copy, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor | None, Tensor | None, None, Tensor | None]:
        rows, copy = ctx.saved_tensors
        needs_rows, needs_weight, _, needs_bias = ctx.needs_input_grad
        return (
            slopes @ copy if needs_rows else None,
            slopes.T @ rows if needs_weight else None,
            None,
            slopes.sum(dim=0) if needs_bias else None,
        )
