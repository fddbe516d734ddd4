"""The gradients of tasks, kept apart: what balancing works on, and how far tasks pull against each other."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from recap.distributed import Ranks


class TaskGradients:
    """Gradients of T losses by each of some parameters, summed over micro-batches.

    Frozen parameters are left out. A parameter is shared if the losses of two tasks or more reach it. Takes the memory
    of a gradient of these for each task.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], tasks: int) -> None:
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.tasks = tasks
        self.sums: list[list[Tensor | None]] = [[None] * tasks for _ in self.parameters]
        """Of each parameter, by task; None where a task does not reach it."""

    def add(self, outputs: Sequence[Tensor], leaf: Tensor, losses: Tensor) -> None:
        """Add the gradients of `losses` [T]: a function of `leaf` [B, T], which holds the values of `outputs`, T × [B].

        The losses are differentiated by `leaf` first, then one output at a time, so that the backward pass of a task
        goes through its own tower and what is shared, and through no tower of another task.
        """
        for task in range(self.tasks):
            (slopes,) = torch.autograd.grad(losses[task], leaf, retain_graph=True)  # [B, T]
            reached = [other for other in range(self.tasks) if other == task or bool(slopes[:, other].any())]
            reached = [other for other in reached if outputs[other].requires_grad]  # not where all it reads is frozen
            found = torch.autograd.grad(
                [outputs[other] for other in reached],
                self.parameters,
                [slopes[:, other] for other in reached],
                retain_graph=task < self.tasks - 1,
                allow_unused=True,
            )
            for place, gradient in enumerate(found):
                if gradient is not None:
                    before = self.sums[place][task]
                    self.sums[place][task] = gradient if before is None else before + gradient

    def unscale(self, scale: float) -> None:
        """Divide all by `scale`."""
        self.sums = [[each if each is None else each / scale for each in gradients] for gradients in self.sums]

    def sum_over(self, ranks: Ranks) -> None:
        """Add up the gradients of all ranks, so that each has those of all rows."""
        flat = [gradient for gradients in self.sums for gradient in gradients]
        owners = [parameter for parameter in self.parameters for _ in range(self.tasks)]
        found = ranks.all_reduce_gradients(flat, owners)
        self.sums = [found[start : start + self.tasks] for start in range(0, len(found), self.tasks)]

    def gram(self) -> Tensor:
        """The dot products of the tasks' gradients of all shared parameters: [T, T] float64, on the CPU."""
        total = torch.zeros(self.tasks, self.tasks, dtype=torch.float64)
        for gradients in self.sums:
            if _is_shared(gradients):
                rows = torch.stack([_or_zeros(gradients, task).flatten() for task in range(self.tasks)]).double()
                total += (rows @ rows.T).cpu()
        return total

    def write(self, shared: Sequence[float], own: Sequence[float]) -> None:
        """Set the gradient of every parameter: Σ_t factor_t · gradient_t.

        One set of factors [T] is for what is shared, the other for what a single task reaches.
        """
        for parameter, gradients in zip(self.parameters, self.sums, strict=True):
            factors = shared if _is_shared(gradients) else own
            parts = [factor * each for factor, each in zip(factors, gradients, strict=True) if each is not None]
            parameter.grad = sum(parts[1:], parts[0]) if parts else None


def cosines(gram: Tensor) -> Tensor:
    """Dot products [T, T] → cosine similarities [T, T]; NaN where a gradient is 0."""
    norms = gram.diagonal().sqrt()
    return gram / (norms[:, None] * norms[None, :])


def _is_shared(gradients: Sequence[Tensor | None]) -> bool:
    return sum(each is not None for each in gradients) > 1


def _or_zeros(gradients: Sequence[Tensor | None], task: int) -> Tensor:
    found = gradients[task]
    return found if found is not None else torch.zeros_like(next(each for each in gradients if each is not None))
