"""Position debias: the position is an input in training, and hidden when scoring."""

import torch
from torch import Tensor, nn

from recap.config.model import PositionDebiasConfig
from recap.model.inputs.tables import INITIAL_DEVIATION, embedding_table

HIDDEN = 0
"""The row of the table for hidden and unknown positions."""


class PositionDebias(nn.Module):
    """An embedding of the position, [B] int64 codes (0 unknown, position + 1) → [B, num_dims] float32.

    In training each position is hidden with the drop probability, drawn anew in every pass. In evaluation
    codes are ignored: all rows get the embedding of a hidden position, or the mean over the positions seen in training.
    """

    def __init__(self, config: PositionDebiasConfig, positions: int, std: float = INITIAL_DEVIATION) -> None:
        """`positions`: number of known positions; `std`: the deviation of new rows."""
        super().__init__()
        self.drop_probability = config.drop_probability
        self.out_features = config.num_dims
        self.last_row = min(positions, config.max_position + 1)
        self.table = embedding_table(self.last_row + 1, config.num_dims, std)
        averages = config.scored_at == "average"
        self.seen: Tensor | None  # [rows of the table] int64: how often each position was seen in training
        self.register_buffer("seen", torch.zeros(self.last_row + 1, dtype=torch.int64) if averages else None)

    def forward(self, codes: Tensor) -> Tensor:
        if self.training:
            codes = codes.clamp(max=self.last_row)
            if self.seen is not None:
                self.seen += torch.bincount(codes[codes != HIDDEN], minlength=len(self.seen))
            hidden = torch.rand(codes.shape, device=codes.device) < self.drop_probability
            output: Tensor = self.table(codes.masked_fill(hidden, HIDDEN))
            return output
        if self.seen is None:
            return self.table(torch.zeros_like(codes))  # type: ignore[no-any-return]
        mean = self.seen.float() @ self.table.weight / self.seen.sum().clamp(min=1)  # [num_dims]
        return mean.expand(codes.shape[0], -1)
