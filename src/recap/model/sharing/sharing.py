"""The interface of sharing schemes."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from torch import Tensor, nn

from recap.model.inputs.layout import InputLayout


class Sharing(nn.Module, ABC):
    """Inputs [B, N] → a representation for the tower of each task, T × [B, layout.width].

    If there are several members, each row has one for each of them, which follow each other: [B · M, …].
    """

    layout: InputLayout
    """The columns of a representation."""
    parts: Sequence[int] = ()
    """Widths of the networks side by side at the end of a representation, if the backbone consists of several."""
    gates: Mapping[str, Sequence[str]] = MappingProxyType({})
    """Gate → the names of the experts that it mixes."""

    @abstractmethod
    def forward(self, inputs: Tensor) -> list[Tensor]:
        """[B, N] → T × [B, layout.width], in the order of `model.tasks`."""

    def gate_weights(self, inputs: Tensor) -> dict[str, Tensor]:
        """[B, N] → gate → the weights of its experts, [B, experts]; those of a row sum to 1."""
        return {}
