"""What every sharing can do."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from recap.model.inputs import InputLayout


class Sharing(nn.Module, ABC):
    """Inputs [B, N] → what the tower of each task reads, T times [B, layout.width]."""

    layout: InputLayout
    """What the columns are that a tower reads."""

    @abstractmethod
    def forward(self, inputs: Tensor) -> list[Tensor]:
        """[B, N] → T times [B, layout.width], in the order of tasks."""
