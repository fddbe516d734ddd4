"""The interface of history encoders, and the padding mask."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class HistoryEncoder(nn.Module, ABC):
    """Events [B, L, E], oldest first, `lengths` [B] of them valid in each row → [B, out_features].

    Padding never changes a result, rows are independent, and a row without events works.
    """

    out_features: int

    @abstractmethod
    def forward(self, events: Tensor, lengths: Tensor, target: Tensor | None) -> Tensor:
        """[B, L, E] float32, [B] int64, and the candidate [B, E] for encoders that use it → [B, out_features]."""


def padding_mask(events: Tensor, lengths: Tensor) -> Tensor:
    """[B, L, E], [B] → [B, L] bool: True for events, False for padding."""
    return torch.arange(events.shape[1], device=events.device) < lengths[:, None]
