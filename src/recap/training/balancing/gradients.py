"""Balancing by the gradient of each task: one forward pass, and a backward pass per task."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from recap.config.optimizer import GradNormConfig
from recap.config.recap import RecapConfig
from recap.model.gradients import TaskGradients
from recap.model.objective.objective import TaskLosses
from recap.training.balancing.balancing import Balancing
from recap.training.parallel import ONE_PROCESS, Strategy


class _ByTask(Balancing):
    """Collects the gradient of weight · loss for each task."""

    def __init__(
        self,
        config: RecapConfig,
        weights: Iterable[nn.Parameter],
        device: torch.device,
        strategy: Strategy = ONE_PROCESS,
    ) -> None:
        super().__init__(config, weights, device, strategy)
        self.tasks = len(config.tasks)
        self.gradients = TaskGradients(self.weights, self.tasks)

    def backward(self, losses: TaskLosses, share: float) -> None:
        self.gradients.add(losses.outputs, losses.leaf, losses.losses * self.loss_weights * share)

    def unscale(self, scale: float) -> None:
        self.gradients.unscale(scale)

    def forget(self) -> None:
        self.gradients = TaskGradients(self.weights, self.tasks)

    def take_gradients(self) -> TaskGradients:
        """Take the gradients of the step, summed over all ranks; the next step starts with none."""
        taken = self.gradients
        self.forget()
        taken.reduce(self.strategy.reduce_gradients)
        return taken


class PcGrad(_ByTask):
    """Yu et al., NeurIPS 2020, algorithm 1, over the mean of the tasks' losses."""

    def finish(self, losses: Tensor) -> None:
        """Project the gradients of shared parameters; those of towers are unchanged."""
        gradients = self.take_gradients()
        orders = [torch.randperm(self.tasks).tolist() for _ in range(self.tasks)]  # each rank draws different ones
        orders = self.strategy.broadcast_object(orders)
        factors = projection_factors(gradients.gram(), orders).sum(dim=0) / self.tasks
        gradients.write(factors.tolist(), [1 / self.tasks] * self.tasks)


def projection_factors(gram: Tensor, orders: Sequence[Sequence[int]]) -> Tensor:
    """The factors [T, T] float64 of PCGrad: row i combines the T original gradients into the i-th projected one.

    `gram` [T, T]: dot products of the original gradients. For each j of `orders[i]`: if the i-th gradient, as projected
    so far, has a negative dot product with the original j-th, its component along the j-th is removed.
    """
    factors = torch.eye(len(gram), dtype=torch.float64)
    for task, order in enumerate(orders):
        for other in order:
            along = factors[task] @ gram[:, other]
            if other != task and along < 0:
                factors[task, other] -= along / gram[other, other]
    return factors


class GradNorm(_ByTask):
    """Chen et al., ICML 2018, algorithm 1, with the norm over all shared parameters.

    A task without a gradient in a step (no labels) is left out of that step. Weights are clamped to `MIN_WEIGHT` and
    above, then scaled to sum to T.
    """

    MIN_WEIGHT = 1e-3

    def __init__(
        self,
        config: RecapConfig,
        balancing: GradNormConfig,
        weights: Iterable[nn.Parameter],
        device: torch.device,
        strategy: Strategy = ONE_PROCESS,
    ) -> None:
        super().__init__(config, weights, device, strategy)
        self.alpha, self.learning_rate = balancing.alpha, balancing.learning_rate
        self.task_factors = torch.ones(self.tasks, dtype=torch.float64)  # [T]
        self.first_losses = torch.full((self.tasks,), torch.nan, dtype=torch.float64)  # [T] NaN before the first loss

    def finish(self, losses: Tensor) -> None:
        """Set gradients with the current weights, then update the weights."""
        gradients = self.take_gradients()
        factors = (self.task_factors / self.tasks).tolist()
        gradients.write(factors, factors)
        norms = gradients.gram().diagonal().sqrt()
        new = self.first_losses.isnan() & (losses > 0)
        self.first_losses = torch.where(new, losses, self.first_losses)
        counted = (norms > 0) & norms.isfinite() & (losses > 0)
        if counted.sum() > 1:
            self.task_factors = self._next_weights(norms, losses / self.first_losses, counted)

    def _next_weights(self, norms: Tensor, loss_ratios: Tensor, counted: Tensor) -> Tensor:
        """The next weights [T], from norms of unweighted gradients and losses relative to the first, [T] each."""
        weighted = self.task_factors * norms
        slowness = loss_ratios / loss_ratios[counted].mean()  # r of the paper
        targets = weighted[counted].mean() * slowness**self.alpha
        moved = self.task_factors - self.learning_rate * torch.sign(weighted - targets) * norms
        moved = torch.where(counted, moved.clamp(min=self.MIN_WEIGHT), self.task_factors)
        return moved * self.tasks / moved.sum()

    def task_weights(self) -> list[float] | None:
        weights: list[float] = self.task_factors.tolist()
        return weights

    def state_dict(self) -> Mapping[str, Tensor]:
        return {"weights": self.task_factors, "first_losses": self.first_losses}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.task_factors, self.first_losses = state["weights"], state["first_losses"]
