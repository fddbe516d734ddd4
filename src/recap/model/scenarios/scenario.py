"""The interface of scenarios."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

Context = tuple[Tensor, ...]
"""What a network reads besides its inputs: the backbone, or that of a tower."""


class Scenario(nn.Module, ABC):
    """What a ranker does with the scenario of a row: before the sharing, in the backbone, and in the towers."""

    domains = 0
    """The number of domains for which an MLP backbone and MLP towers have layers, and whose codes they read."""

    @abstractmethod
    def forward(self, inputs: Tensor, codes: Tensor) -> tuple[Tensor, Context, list[Context]]:
        """Inputs [B, N] and `Batch.discrete` → what the sharing reads [B, N]; the contexts of it and of T towers."""
