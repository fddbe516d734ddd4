"""Deep Interest Network (Zhou et al., KDD 2018, arXiv:1706.06978): events weighted by the candidate."""

import torch
from torch import Tensor

from recap.config.histories import DinConfig
from recap.model.histories.encoder import HistoryEncoder, padding_mask
from recap.model.layers import Mlp


class Din(HistoryEncoder):
    """Σⱼ a(hⱼ, t) hⱼ (equation 3): the activation unit a is an MLP of [h, t, h - t, h · t], without softmax by default.

    ReLU replaces the PReLU or Dice of the paper.
    """

    def __init__(self, config: DinConfig, width: int) -> None:
        super().__init__()
        self.activation_unit = Mlp(4 * width, [*config.layer_sizes, 1])
        self.normalize = config.normalize
        self.out_features = width

    def forward(self, events: Tensor, lengths: Tensor, target: Tensor | None) -> Tensor:
        assert target is not None
        candidate = target[:, None].expand_as(events)
        inputs = torch.cat([events, candidate, events - candidate, events * candidate], dim=2)  # [B, L, 4E]
        weights = self.activation_unit(inputs).squeeze(2)  # [B, L]
        mask = padding_mask(events, lengths)
        if self.normalize:
            weights = weights.masked_fill(~mask, torch.finfo(weights.dtype).min).softmax(dim=1)
        weights = torch.where(mask, weights, 0.0)
        return torch.einsum("bl,ble->be", weights, events)
