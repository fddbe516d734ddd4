"""The simplest encoder: events pooled."""

import torch
from torch import Tensor

from recap.config.histories import PoolingConfig
from recap.model.histories.encoder import HistoryEncoder, is_there


class Pooling(HistoryEncoder):
    """The mean of the events, their sum, or the newest; zeros where there is none."""

    def __init__(self, config: PoolingConfig, width: int) -> None:
        super().__init__()
        self.mode = config.mode
        self.out_features = width

    def forward(self, events: Tensor, lengths: Tensor, target: Tensor | None) -> Tensor:
        """[B, L, E], [B] → [B, E]; the candidate is not looked at."""
        there = is_there(events, lengths)
        if self.mode == "last":
            there = there & (torch.arange(events.shape[1], device=events.device) == lengths[:, None] - 1)
        total = (events * there[..., None]).sum(dim=1)
        return total / lengths.clamp(min=1)[:, None] if self.mode == "mean" else total
