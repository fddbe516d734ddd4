"""Private names of torch, each with a public fallback for versions that lack it and for `RECAP_PLAIN=1`.

The `foreach` functions launch one kernel for a list of tensors instead of one for each; the fallbacks loop.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from recap.native import plain


def _private(owner: Any, name: str) -> Any:
    """The attribute; None if it is missing or tricks are off."""
    return None if plain() else getattr(owner, name, None)


def foreach_norm(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The L2 norm of each tensor, a scalar in its dtype."""
    norm = _private(torch, "_foreach_norm")
    if norm is None:
        return [torch.linalg.vector_norm(tensor) for tensor in tensors]
    return list(norm(list(tensors)))


def foreach_lerp_(tensors: Sequence[Tensor], ends: Sequence[Tensor], weight: float) -> None:
    """Move each tensor the fraction `weight` (0 to 1) of the way to its end."""
    lerp = _private(torch, "_foreach_lerp_")
    if lerp is not None:
        lerp(list(tensors), list(ends), weight)
        return
    for tensor, end in zip(tensors, ends, strict=True):
        tensor.lerp_(end, weight)


def foreach_add_(tensors: Sequence[Tensor], others: Sequence[Tensor], alpha: float) -> None:
    """Add `alpha` · other to each tensor."""
    add = _private(torch, "_foreach_add_")
    if add is not None:
        add(list(tensors), list(others), alpha=alpha)
        return
    for tensor, other in zip(tensors, others, strict=True):
        tensor.add_(other, alpha=alpha)


def foreach_mul_(tensors: Sequence[Tensor], factor: float) -> None:
    """Multiply each tensor by `factor`."""
    multiply = _private(torch, "_foreach_mul_")
    if multiply is not None:
        multiply(list(tensors), factor)
        return
    for tensor in tensors:
        tensor.mul_(factor)


def foreach_clamp_(tensors: Sequence[Tensor], limit: float) -> None:
    """Clamp each tensor to −limit … limit."""
    low, high = _private(torch, "_foreach_clamp_min_"), _private(torch, "_foreach_clamp_max_")
    if low is not None and high is not None:
        low(list(tensors), -limit)
        high(list(tensors), limit)
        return
    for tensor in tensors:
        tensor.clamp_(-limit, limit)


def fused_adam_(
    weight: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, step: Tensor, group: Mapping[str, Any]
) -> None:
    """Update float32 tensors of one shape as torch's fused Adam or AdamW does, as step number `step`.

    `group`: a parameter group of `torch.optim.Adam`. No fallback: `rounded_weight.usable` says whether torch has it.
    """
    update = torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_
    beta1, beta2 = group["betas"]
    update(
        [weight],
        [gradient],
        [mean],
        [square],
        [],
        [step],
        lr=group["lr"],
        beta1=beta1,
        beta2=beta2,
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        amsgrad=False,
        maximize=False,
    )


def sparse_parts(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Indices [dimensions, N] and values [N, …] of a sparse tensor as stored: repeated indices are not summed.

    The fallback sums them.
    """
    if _private(tensor, "_indices") is None or _private(tensor, "_values") is None:
        tensor = tensor.detach().coalesce()
        return tensor.indices(), tensor.values()
    return tensor._indices(), tensor._values()


def packed_weight(weight: Tensor) -> Tensor | None:
    """A bf16 weight [out, in] in the layout of oneDNN, for `packed_linear`: 6% faster. The fallback is None."""
    pack, multiply = (_private(torch.ops.mkldnn, name) for name in ("_reorder_linear_weight", "_linear_pointwise"))
    if pack is None or multiply is None or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return None
    packed: Tensor = pack(weight)
    return packed


def packed_linear(inputs: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    """[…, in] bf16 → […, out] bf16. `packed`: what `packed_weight` returned, if it was not None."""
    output: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, packed, bias, "none", [], "")
    return output


def int_product(left: Tensor, right: Tensor) -> Tensor:
    """[N, K] int8 and [M, K] int8 → left · rightᵀ, [N, M]: int32, or float64 from the fallback, which is slow.

    K ≥ 2: for K = 1, torch returns memory that it never wrote.
    """
    multiply = _private(torch, "_int_mm")
    if multiply is None:
        return left.double() @ right.double().T
    product: Tensor = multiply(left, right.T)
    return product


def profiler_enabled() -> bool:
    """Whether torch's profiler runs. The fallback is True, at the cost of a microsecond per span."""
    enabled = _private(torch.autograd, "_profiler_enabled")
    return True if enabled is None else bool(enabled())


def compile_errors() -> type[RuntimeError]:
    """The exception of `torch.compile` for code it cannot compile. The fallback is its base class."""
    import torch._dynamo.exc as errors

    error: type[RuntimeError] = getattr(errors, "TorchDynamoException", RuntimeError)
    return error
