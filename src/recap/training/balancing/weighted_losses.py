"""Balancing by weights on losses, with one backward pass per micro-batch."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from recap.config.loss import RegressionConfig
from recap.config.recap import RecapConfig
from recap.model.objective.objective import TaskLosses
from recap.training.balancing.balancing import Balancing
from recap.training.parallel import ONE_PROCESS, Strategy


class MeanOfLosses(Balancing):
    """The mean of weight · loss over the tasks, plus the penalty of the objective."""

    sums_in_backward = True

    def backward(self, losses: TaskLosses, share: float) -> None:
        total = self.weighted(losses.losses * self.loss_weights).mean() + losses.penalty
        (total * share).backward()  # type: ignore[no-untyped-call]
        assert losses.leaf.grad is not None
        slopes = zip(losses.outputs, losses.leaf.grad.unbind(dim=1), strict=True)
        learned = [(output, slope) for output, slope in slopes if output.requires_grad]  # False where all is frozen
        torch.autograd.backward([output for output, _ in learned], [slope for _, slope in learned])

    def unscale(self, scale: float) -> None:
        for parameter in self._all_parameters():
            if parameter.grad is not None:
                parameter.grad.div_(scale)

    def finish(self, losses: Tensor) -> None:
        parameters = self._all_parameters()
        sums = self.strategy.reduce_gradients([parameter.grad for parameter in parameters], parameters)
        for parameter, total in zip(parameters, sums, strict=True):
            parameter.grad = total

    def _all_parameters(self) -> list[nn.Parameter]:
        return [*self.weights, *self.parameters().values()]

    def forget(self) -> None:
        """Does nothing: gradients are cleared when a step starts."""

    def weighted(self, losses: Tensor) -> Tensor:
        """Losses [T] → the terms [T] whose mean is minimised."""
        return losses


class Uncertainty(MeanOfLosses):
    """Kendall et al., CVPR 2018, with s = log σ²: exp(−s)·L + s / 2, where L counts half for a regression."""

    def __init__(
        self,
        config: RecapConfig,
        weights: Iterable[nn.Parameter],
        device: torch.device,
        strategy: Strategy = ONE_PROCESS,
    ) -> None:
        super().__init__(config, weights, device, strategy)
        halves = [0.5 if isinstance(task.objective, RegressionConfig) else 1.0 for task in config.model.tasks.values()]
        self.factors = torch.tensor(halves, device=device)  # [T]
        self.log_variances = nn.Parameter(torch.zeros(len(halves), device=device))  # [T]

    def weighted(self, losses: Tensor) -> Tensor:
        return self.factors * torch.exp(-self.log_variances) * losses + self.log_variances / 2

    def parameters(self) -> Mapping[str, nn.Parameter]:
        return {"balancing.log_variances": self.log_variances}

    def task_weights(self) -> list[float] | None:
        weights: list[float] = (self.factors * torch.exp(-self.log_variances.detach())).tolist()
        return weights

    def state_dict(self) -> Mapping[str, Tensor]:
        return {"log_variances": self.log_variances.detach()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            self.log_variances.copy_(state["log_variances"])
