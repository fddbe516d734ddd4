"""The moving average of the weights, beside the raw weights that training moves. `EmaConfig` has the formula."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from recap.config.training import EmaConfig
from recap.model.ranker import Ranker
from recap.native.torch_private import foreach_lerp_


class WeightAverage:
    """Averages of the trainable weights of a ranker; none without a configuration.

    Buffers, such as the running statistics of BatchNorm, and frozen weights are not averaged.
    """

    def __init__(self, config: EmaConfig | None, ranker: Ranker) -> None:
        self.decay = config.decay if config is not None else 0.0
        parameters = ranker.named_parameters() if config is not None else ()
        self.parameters = {name: parameter for name, parameter in parameters if parameter.requires_grad}
        self.averages: list[Tensor] = []
        self.restart()

    def restart(self) -> None:
        """Set the averages to the current weights."""
        self.averages = [parameter.detach().clone() for parameter in self.parameters.values()]

    def update(self, step: int) -> None:
        """Update the averages after step number `step`, counted from 1."""
        if self.averages:
            decay = min(self.decay, (1 + step) / (10 + step))
            with torch.no_grad():
                foreach_lerp_(self.averages, list(self.parameters.values()), 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Swap the averages into the ranker for the block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for index, parameter in enumerate(self.parameters.values()):
            self.averages[index], parameter.data = parameter.data, self.averages[index]

    def state_dict(self) -> dict[str, Tensor]:
        """The raw weights by name. Do not call it while the averages are applied."""
        return {name: parameter.detach().contiguous() for name, parameter in self.parameters.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take the averages from the ranker, which must hold them, and load the raw weights of `state` into it."""
        self.restart()
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(state[name])
