"""The interface of scenarios."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

Context = tuple[Tensor, ...]
"""What the network of a tower reads besides its inputs."""


class Scenario(nn.Module, ABC):
    """What a ranker does with the scenario of a row: before the sharing, and in the towers."""

    @abstractmethod
    def forward(self, inputs: Tensor, codes: Tensor) -> tuple[Tensor, list[Context]]:
        """Inputs [B, N] and `Batch.discrete` → what the sharing reads [B, N], and the context of each of T towers."""
