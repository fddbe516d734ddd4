"""Pooling, the simplest encoder."""

import torch
from torch import Tensor

from recap.config.histories import PoolingConfig
from recap.model.histories.encoder import HistoryEncoder, padding_mask


class Pooling(HistoryEncoder):
    """The mean, sum or newest of the events; zeros for a row without events: [B, L, E] → [B, E]."""

    def __init__(self, config: PoolingConfig, width: int) -> None:
        super().__init__()
        self.mode = config.mode
        self.out_features = width

    def forward(self, events: Tensor, lengths: Tensor, target: Tensor | None, ages: Tensor | None = None) -> Tensor:
        mask = padding_mask(events, lengths)
        if self.mode == "last":
            mask = mask & (torch.arange(events.shape[1], device=events.device) == lengths[:, None] - 1)
        total = (events * mask[..., None]).sum(dim=1)
        return total / lengths.clamp(min=1)[:, None] if self.mode == "mean" else total
