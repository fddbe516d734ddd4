"""The moving average of the weights, beside those that training moves. Its formula stands in `EmaConfig`."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from recap.config.training import EmaConfig
from recap.model.ranker import Ranker


class WeightAverage:
    """An average of every weight of a ranker that learns; without a configuration of none, and nothing changes.

    Buffers, such as the running statistics of BatchNorm, are no part of it, and frozen weights need none.
    """

    def __init__(self, config: EmaConfig | None, ranker: Ranker) -> None:
        self.decay = config.decay if config is not None else 0.0
        learned = ranker.named_parameters() if config is not None else ()
        self.parameters = {name: parameter for name, parameter in learned if parameter.requires_grad}
        self.averages: list[Tensor] = []
        self.restart()

    def restart(self) -> None:
        """Begin with the weights as they are now."""
        self.averages = [parameter.detach().clone() for parameter in self.parameters.values()]

    def update(self, step: int) -> None:
        """Take in the weights after step number `step`, from 1 on."""
        if self.averages:
            decay = min(self.decay, (1 + step) / (10 + step))
            with torch.no_grad():
                torch._foreach_lerp_(self.averages, list(self.parameters.values()), 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The ranker holds the averages while the block runs."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for place, parameter in enumerate(self.parameters.values()):
            self.averages[place], parameter.data = parameter.data, self.averages[place]

    def state_dict(self) -> dict[str, Tensor]:
        """The weights that training goes on with, by name; not to be asked for while the averages are applied."""
        return {name: parameter.detach().contiguous() for name, parameter in self.parameters.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take the weights of the ranker for the averages, and those that `state_dict` gave to go on with."""
        self.restart()
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(state[name])
