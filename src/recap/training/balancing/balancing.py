"""The interface of balancing, which combines task losses into the gradients of a step. It knows no network."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from recap.config.recap import RecapConfig
from recap.model.objective.objective import TaskLosses
from recap.training.parallel import ONE_PROCESS, Strategy


class Balancing(ABC):
    """Turns the losses of micro-batches into the gradients of a step: `backward` for each, then `finish`.

    Call `unscale` before `finish` if the share given to `backward` was multiplied by a loss scale.
    """

    sums_in_backward = False
    """Whether `backward` adds to `parameter.grad`, where the strategy may sum gradients over the ranks meanwhile."""

    def __init__(
        self,
        config: RecapConfig,
        weights: Iterable[nn.Parameter],
        device: torch.device,
        strategy: Strategy = ONE_PROCESS,
    ) -> None:
        """`weights`: the parameters of the network, whose gradients a step sets."""
        self.weights, self.strategy = list(weights), strategy
        self.loss_weights = torch.tensor([task.loss_weight for task in config.model.tasks.values()], device=device)

    @abstractmethod
    def backward(self, losses: TaskLosses, share: float) -> None:
        """Add a micro-batch, the fraction `share` of the step."""

    @abstractmethod
    def unscale(self, scale: float) -> None:
        """Divide everything that `backward` added by `scale`."""

    @abstractmethod
    def finish(self, losses: Tensor) -> None:
        """Set the parameters' gradients, summed over all ranks. `losses` [T] float64 are those of all rows."""

    @abstractmethod
    def forget(self) -> None:
        """Drop everything that `backward` added."""

    def parameters(self) -> Mapping[str, nn.Parameter]:
        """Parameters of the balancing itself, by name; the optimizer moves them at the rate of the backbone."""
        return {}

    def task_weights(self) -> list[float] | None:
        """The learned weight of each task, a factor besides its `loss_weight`; None if none is learned."""
        return None

    def state_dict(self) -> Mapping[str, Tensor]:
        """The state to resume with, besides the optimizer's."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        assert not state
