"""How the losses of tasks become the gradients of a step. What each kind is for stands in `recap.config.balancing`."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import assert_never

import torch
from torch import Tensor, nn

from recap.config.loss import RegressionConfig
from recap.config.optimizer import GradNormConfig, NoBalancingConfig, PcGradConfig, UncertaintyConfig
from recap.config.recap import RecapConfig
from recap.data.batch import Batch
from recap.distributed import ALONE, Ranks
from recap.model.gradients import TaskGradients
from recap.model.objective.objective import Objective, stacked
from recap.model.ranker import Ranker


class Balancing(ABC):
    """Turns the outputs of micro-batches into the gradients of a step: `backward` for each, then `finish`.

    Between them `unscale`, where the share that `backward` was told was multiplied by a scale.
    """

    def __init__(self, config: RecapConfig, device: torch.device) -> None:
        self.objective = Objective(config).to(device)
        self.loss_weights = torch.tensor([task.loss_weight for task in config.model.tasks.values()], device=device)

    @abstractmethod
    def backward(self, outputs: Sequence[Tensor], batch: Batch, share: float) -> Tensor:
        """Take in the raw outputs (T × [B]) of a micro-batch that is this `share` of the step; its losses [T]."""

    @abstractmethod
    def unscale(self, scale: float) -> None:
        """Divide by `scale` all that `backward` took in."""

    @abstractmethod
    def finish(self, losses: Tensor, ranks: Ranks = ALONE) -> None:
        """Have the gradients of the step, those of all ranks, in place; `losses` [T] float64 are of the whole step."""

    @abstractmethod
    def forget(self) -> None:
        """Give up a step: nothing stays of what `backward` took in."""

    def parameters(self) -> Mapping[str, nn.Parameter]:
        """What the optimizer moves besides the ranker's, by name, at the rate of the backbone."""
        return {}

    def task_weights(self) -> list[float] | None:
        """What each task counts at present, beyond its `loss_weight`; None where no such weight is learned."""
        return None

    def state_dict(self) -> dict[str, Tensor]:
        """What a resumed run needs besides the optimizer's state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Bring back what `state_dict` gave."""
        assert not state


class MeanOfLosses(Balancing):
    """The mean of weight · loss over the tasks, and what a cascade adds to it."""

    def __init__(self, config: RecapConfig, device: torch.device, ranker: Ranker) -> None:
        super().__init__(config, device)
        self.ranker = ranker

    def backward(self, outputs: Sequence[Tensor], batch: Batch, share: float) -> Tensor:
        """One backward pass."""
        raw = stacked(outputs)
        losses: Tensor = self.objective(raw, batch)
        total = self.combined(losses * self.loss_weights).mean() + self.objective.penalty(raw)
        (total * share).backward()  # type: ignore[no-untyped-call]
        return losses.detach()

    def unscale(self, scale: float) -> None:
        """In place."""
        for parameter in self._moved():
            if parameter.grad is not None:
                parameter.grad.div_(scale)

    def finish(self, losses: Tensor, ranks: Ranks = ALONE) -> None:
        """Alone, nothing is left to do."""
        if ranks.is_alone:
            return
        parameters = self._moved()
        sums = ranks.all_reduce_gradients([parameter.grad for parameter in parameters], parameters)
        for parameter, total in zip(parameters, sums, strict=True):
            parameter.grad = total

    def _moved(self) -> list[nn.Parameter]:
        return [*self.ranker.parameters(), *self.parameters().values()]

    def forget(self) -> None:
        """Nothing was kept."""

    def combined(self, losses: Tensor) -> Tensor:
        """[T] → [T], what a mean is taken of."""
        return losses


class Uncertainty(MeanOfLosses):
    """Kendall et al., CVPR 2018, with s = log σ²: exp(−s)·L + s / 2, where L counts half for a regression."""

    def __init__(self, config: RecapConfig, device: torch.device, ranker: Ranker) -> None:
        super().__init__(config, device, ranker)
        halves = [0.5 if isinstance(task.objective, RegressionConfig) else 1.0 for task in config.model.tasks.values()]
        self.factors = torch.tensor(halves, device=device)  # [T]
        self.log_variances = nn.Parameter(torch.zeros(len(halves), device=device))  # [T]

    def combined(self, losses: Tensor) -> Tensor:
        """[T] → [T]."""
        return self.factors * torch.exp(-self.log_variances) * losses + self.log_variances / 2

    def parameters(self) -> Mapping[str, nn.Parameter]:
        """The log variances."""
        return {"balancing.log_variances": self.log_variances}

    def task_weights(self) -> list[float] | None:
        """The factor of each task's loss."""
        weights: list[float] = (self.factors * torch.exp(-self.log_variances.detach())).tolist()
        return weights

    def state_dict(self) -> dict[str, Tensor]:
        """The log variances."""
        return {"log_variances": self.log_variances.detach()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Bring them back."""
        with torch.no_grad():
            self.log_variances.copy_(state["log_variances"])


class _ByTask(Balancing):
    """What works on the gradients of tasks: one forward pass, and a backward pass a task."""

    def __init__(self, config: RecapConfig, device: torch.device, ranker: Ranker) -> None:
        super().__init__(config, device)
        self.ranker, self.tasks = ranker, len(config.tasks)
        self.gradients = TaskGradients(ranker.parameters(), self.tasks)

    def backward(self, outputs: Sequence[Tensor], batch: Batch, share: float) -> Tensor:
        """Adds to the gradients of each task, of weight · loss."""
        leaf = torch.stack([output.detach() for output in outputs], dim=1).requires_grad_()
        losses: Tensor = self.objective(leaf, batch)
        self.gradients.add(outputs, leaf, losses * self.loss_weights * share)
        return losses.detach()

    def unscale(self, scale: float) -> None:
        """The gradients of each task."""
        self.gradients.unscale(scale)

    def forget(self) -> None:
        """No gradient of the step is left."""
        self.gradients = TaskGradients(self.ranker.parameters(), self.tasks)

    def taken(self, ranks: Ranks) -> TaskGradients:
        """The gradients of the step, over all ranks, which are then forgotten."""
        taken, self.gradients = self.gradients, TaskGradients(self.ranker.parameters(), self.tasks)
        taken.sum_over(ranks)
        return taken


class PcGrad(_ByTask):
    """Yu et al., NeurIPS 2020, algorithm 1, over the mean of the tasks' losses."""

    def finish(self, losses: Tensor, ranks: Ranks = ALONE) -> None:
        """Projected gradients for what is shared, those of towers as they are."""
        taken = self.taken(ranks)
        orders = [torch.randperm(self.tasks).tolist() for _ in range(self.tasks)]  # of the step's seed, and of the rank
        orders = ranks.broadcast_object(orders)
        factors = projected(taken.gram(), orders).sum(dim=0) / self.tasks
        taken.write(factors.tolist(), [1 / self.tasks] * self.tasks)


def projected(gram: Tensor, orders: Sequence[Sequence[int]]) -> Tensor:
    """Dot products of T gradients [T, T] → [T, T] float64: row i says of which multiples of them PCGrad makes the i-th.

    For each j of `orders[i]`: where the i-th gradient as it is by then has a negative dot product with the original
    j-th, its part along that is taken away.
    """
    made = torch.eye(len(gram), dtype=torch.float64)
    for task, order in enumerate(orders):
        for other in order:
            along = made[task] @ gram[:, other]
            if other != task and along < 0:
                made[task, other] -= along / gram[other, other]
    return made


class GradNorm(_ByTask):
    """Chen et al., ICML 2018, algorithm 1, with the norm over all shared parameters.

    A task without a gradient in a step (no labels) is left out of it. Weights stay at or above `LEAST_WEIGHT` before
    they are scaled to sum up to T.
    """

    LEAST_WEIGHT = 1e-3

    def __init__(self, config: RecapConfig, device: torch.device, ranker: Ranker, said: GradNormConfig) -> None:
        super().__init__(config, device, ranker)
        self.said = said
        self.weights = torch.ones(self.tasks, dtype=torch.float64)  # [T]
        self.first_losses = torch.full((self.tasks,), torch.nan, dtype=torch.float64)  # [T] NaN before a first one

    def finish(self, losses: Tensor, ranks: Ranks = ALONE) -> None:
        """Gradients with the weights as they are; then the weights move."""
        taken = self.taken(ranks)
        factors = (self.weights / self.tasks).tolist()
        taken.write(factors, factors)
        norms = taken.gram().diagonal().sqrt()
        new = self.first_losses.isnan() & (losses > 0)
        self.first_losses = torch.where(new, losses, self.first_losses)
        counted = (norms > 0) & norms.isfinite() & (losses > 0)
        if counted.sum() > 1:
            self.weights = self._moved(norms, losses / self.first_losses, counted)

    def _moved(self, norms: Tensor, left: Tensor, counted: Tensor) -> Tensor:
        """The next weights [T]; `norms` of unweighted gradients and what is `left` of the first losses, [T] each."""
        weighted = self.weights * norms
        slowness = left / left[counted].mean()  # r of the paper
        targets = weighted[counted].mean() * slowness**self.said.alpha
        moved = self.weights - self.said.learning_rate * torch.sign(weighted - targets) * norms
        moved = torch.where(counted, moved.clamp(min=self.LEAST_WEIGHT), self.weights)
        return moved * self.tasks / moved.sum()

    def task_weights(self) -> list[float] | None:
        """Those of the next step."""
        weights: list[float] = self.weights.tolist()
        return weights

    def state_dict(self) -> dict[str, Tensor]:
        """Weights and first losses."""
        return {"weights": self.weights, "first_losses": self.first_losses}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Bring them back."""
        self.weights, self.first_losses = state["weights"], state["first_losses"]


def build_balancing(config: RecapConfig, ranker: Ranker, device: torch.device) -> Balancing:
    """The balancing that `config` asks for, over the parameters of `ranker`."""
    said = config.optimizer.balancing
    match said:
        case NoBalancingConfig():
            return MeanOfLosses(config, device, ranker)
        case UncertaintyConfig():
            return Uncertainty(config, device, ranker)
        case PcGradConfig():
            return PcGrad(config, device, ranker)
        case GradNormConfig():
            return GradNorm(config, device, ranker, said)
        case _:
            assert_never(said)
