"""What every encoder of a history can do."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class HistoryEncoder(nn.Module, ABC):
    """Events [B, L, E], of which the first `lengths` [B] of each row are there, oldest first → [B, out_features].

    What stands behind them never changes a result, and no row sees another. A row without events works.
    """

    out_features: int

    @abstractmethod
    def forward(self, events: Tensor, lengths: Tensor, target: Tensor | None) -> Tensor:
        """[B, L, E] float32, [B] int64 and the candidate [B, E], if the encoder looks at one → [B, out_features]."""


def is_there(events: Tensor, lengths: Tensor) -> Tensor:
    """[B, L, E], [B] → [B, L] bool: which events are no padding."""
    return torch.arange(events.shape[1], device=events.device) < lengths[:, None]
