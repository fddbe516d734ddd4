"""Gradients of each task: to balance tasks, and to measure conflicts between them."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

AllReduce = Callable[[Sequence[Tensor | None], Sequence[Tensor]], Sequence[Tensor | None]]
"""The gradients of one rank, and their parameters → the sums over all ranks."""


class TaskGradients:
    """The gradients of T losses with respect to some parameters, summed over micro-batches.

    Frozen parameters are left out. A parameter is shared if the losses of at least two tasks depend on it. Needs the
    memory of T gradients.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], tasks: int) -> None:
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.tasks = tasks
        self.sums: list[list[Tensor | None]] = [[None] * tasks for _ in self.parameters]
        """[parameters][tasks]; None if the loss of the task does not depend on the parameter."""

    def add(self, outputs: Sequence[Tensor], leaf: Tensor, losses: Tensor) -> None:
        """Add the gradients of `losses` [T], computed from `leaf` [B, T + A], a detached copy of `outputs`.

        Each loss is differentiated with respect to `leaf` first, then the outputs it depends on, so that the backward
        pass of a task goes through its own tower and the shared modules, but not through the towers of other tasks.
        """
        for task in range(self.tasks):
            (slopes,) = torch.autograd.grad(losses[task], leaf, retain_graph=True)  # [B, T + A]
            reached = [other for other in range(len(outputs)) if other == task or bool(slopes[:, other].any())]
            reached = [other for other in reached if outputs[other].requires_grad]  # False if all below is frozen
            gradients = torch.autograd.grad(
                [outputs[other] for other in reached],
                self.parameters,
                [slopes[:, other] for other in reached],
                retain_graph=task < self.tasks - 1,
                allow_unused=True,
            )
            for sums, gradient in zip(self.sums, gradients, strict=True):
                if gradient is not None:
                    before = sums[task]
                    sums[task] = gradient if before is None else before + gradient

    def unscale(self, scale: float) -> None:
        """Divide all gradients by `scale`."""
        self.sums = [[None if total is None else total / scale for total in sums] for sums in self.sums]

    def reduce(self, all_reduce: AllReduce) -> None:
        """Sum the gradients over all ranks."""
        flat = [gradient for gradients in self.sums for gradient in gradients]
        owners = [parameter for parameter in self.parameters for _ in range(self.tasks)]
        sums = all_reduce(flat, owners)
        self.sums = [list(sums[start : start + self.tasks]) for start in range(0, len(sums), self.tasks)]

    def gram(self) -> Tensor:
        """Dot products of the tasks' gradients of the shared parameters: [T, T] float64 on the CPU."""
        total = torch.zeros(self.tasks, self.tasks, dtype=torch.float64)
        for gradients in self.sums:
            if _is_shared(gradients):
                rows = torch.stack([_or_zeros(gradients, task).flatten() for task in range(self.tasks)]).double()
                total += (rows @ rows.T).cpu()
        return total

    def write(self, shared: Sequence[float], own: Sequence[float]) -> None:
        """Set the gradient of every parameter to Σ_t factor_t · gradient_t.

        `shared` [T]: the factors for shared parameters; `own` [T]: those for parameters of a single task.
        """
        for parameter, gradients in zip(self.parameters, self.sums, strict=True):
            factors = shared if _is_shared(gradients) else own
            parts = [factor * part for factor, part in zip(factors, gradients, strict=True) if part is not None]
            parameter.grad = sum(parts[1:], parts[0]) if parts else None


def cosines(gram: Tensor) -> Tensor:
    """Dot products [T, T] → cosine similarities [T, T]; NaN where a gradient is 0."""
    norms = gram.diagonal().sqrt()
    return gram / (norms[:, None] * norms[None, :])


def _is_shared(gradients: Sequence[Tensor | None]) -> bool:
    return sum(gradient is not None for gradient in gradients) > 1


def _or_zeros(gradients: Sequence[Tensor | None], task: int) -> Tensor:
    gradient = gradients[task]
    if gradient is None:
        return torch.zeros_like(next(other for other in gradients if other is not None))
    return gradient
