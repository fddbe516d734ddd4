"""What every sharing can do."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from torch import Tensor, nn

from recap.model.inputs.layout import InputLayout


class Sharing(nn.Module, ABC):
    """Inputs [B, N] → what the tower of each task reads, T times [B, layout.width]."""

    layout: InputLayout
    """What the columns are that a tower reads."""
    gates: Mapping[str, Sequence[str]] = MappingProxyType({})
    """The name of each gate, and the names of the experts that it mixes."""

    @abstractmethod
    def forward(self, inputs: Tensor) -> list[Tensor]:
        """[B, N] → T times [B, layout.width], in the order of tasks."""

    def gate_weights(self, inputs: Tensor) -> dict[str, Tensor]:
        """[B, N] → the weights of each of `gates`, [B, experts] in [0, 1], which sum to 1 over its experts."""
        return {}
