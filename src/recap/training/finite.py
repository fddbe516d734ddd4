"""Numbers that are not finite: where a step looks for them, and how nothing stays of such a step."""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from recap.errors import NotFinite
from recap.model.ranker import Ranker
from recap.training.balancing import Balancing


class StepGuard:
    """Looks at the numbers of a step before the optimizer sees them, and can bring back what the step has moved."""

    def __init__(self, tasks: Sequence[str], ranker: Ranker, balancing: Balancing) -> None:
        self.tasks, self.balancing = tasks, balancing
        self.parameters: dict[str, nn.Parameter] = {**dict(ranker.named_parameters()), **balancing.parameters()}
        # Running statistics move in the forward pass, before a loss is known. Buffers are small.
        self.buffers = dict(ranker.named_buffers())
        self.copies = {name: buffer.clone() for name, buffer in self.buffers.items()}
        self.balanced: Mapping[str, Tensor] = {}

    def remember(self) -> None:
        """A step begins."""
        for name, buffer in self.buffers.items():
            self.copies[name].copy_(buffer)
        self.balanced = self.balancing.state_dict()

    def bring_back(self) -> None:
        """The step is given up: all that it moved is as it was when it began."""
        for name, buffer in self.buffers.items():
            buffer.copy_(self.copies[name])
        self.balancing.forget()
        self.balancing.load_state_dict(self.balanced)

    def check_losses(self, step: int, losses: Tensor) -> None:
        """[T]. Raises NotFinite for them, or for the running statistics that their forward passes left."""
        bad = [task for task, loss in zip(self.tasks, losses.tolist(), strict=True) if not math.isfinite(loss)]
        if bad:
            raise NotFinite(step, "loss", bad)
        if bad := not_finite(self.buffers):
            raise NotFinite(step, "running statistic", bad)

    def check_gradients(self, step: int) -> None:
        """Raises NotFinite for gradients whose norm is no float32: optimizers square them."""
        gradients = {name: each.grad for name, each in self.parameters.items() if each.grad is not None}
        if bad := _overflowing(gradients):
            raise NotFinite(step, "gradient", bad)


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of those, of any dtype and shape, that hold NaN or infinity."""
    return [name for name in _overflowing(tensors) if not bool(_values(tensors[name]).isfinite().all())]


def _overflowing(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of those whose norm is not finite in their dtype: one pass over their memory, the cheapest there is."""
    found = {name: _values(tensor) for name, tensor in tensors.items() if tensor.is_floating_point()}
    if not found:
        return []
    norms: Iterable[float] = torch.stack([norm.float() for norm in torch._foreach_norm(list(found.values()))]).tolist()
    return [name for name, norm in zip(found, norms, strict=True) if not math.isfinite(norm)]


def _values(tensor: Tensor) -> Tensor:
    """What a sparse tensor says of its rows; another as it is."""
    return tensor.detach()._values() if tensor.is_sparse else tensor.detach()
