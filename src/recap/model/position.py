"""Position debias: the position as an input that is hidden where it should have no say."""

import torch
from torch import Tensor, nn

from recap.config.model import PositionDebiasConfig
from recap.model.embeddings import embedding_table

HIDDEN = 0
"""The row of the table for a position that is hidden or not known."""


class PositionDebias(nn.Module):
    """An embedding of the position, [B] int64 codes (0 unknown, position + 1) → [B, num_dims] float32.

    In training each row is hidden with the drop probability (drawn anew in every pass); in evaluation every row is,
    whatever its code.
    """

    def __init__(self, config: PositionDebiasConfig, positions: int) -> None:
        """`positions`: how many of them the feature knows."""
        super().__init__()
        self.drop_probability = config.drop_probability
        self.out_features = config.num_dims
        self.last_row = min(positions, config.max_position + 1)
        self.table = embedding_table(self.last_row, config.num_dims)

    def forward(self, codes: Tensor) -> Tensor:
        """[B] → [B, num_dims]."""
        if self.training:
            hidden = torch.rand(codes.shape, device=codes.device) < self.drop_probability
            rows = codes.clamp(max=self.last_row).masked_fill(hidden, HIDDEN)
        else:
            rows = torch.zeros_like(codes)
        output: Tensor = self.table(rows)
        return output
