"""Deep Interest Network (Zhou et al., KDD 2018, arXiv:1706.06978): events weighted by the candidate."""

import torch
from torch import Tensor, nn

from recap.config.histories import DinConfig
from recap.model.histories.encoder import CandidateEncoder, Encoded, padding_mask
from recap.model.layers import Mlp


class Din(CandidateEncoder):
    """Σⱼ a(hⱼ, t) hⱼ (equation 3): the activation unit a is an MLP of [h, t, h - t, h · t], without softmax by default.

    ReLU replaces the PReLU or Dice of the paper. With first layer W = [W₁, W₂, W₃, W₄],

        W [h, t, h − t, h · t] = (W₁ + W₃) h + ((W₂ − W₃) + W₄ · h) t

    so for a given event the first layer is an affine map of the candidate, which `encode` and `attend` use.
    """

    def __init__(self, config: DinConfig, width: int) -> None:
        super().__init__()
        self.activation_unit = Mlp(4 * width, [*config.layer_sizes, 1])
        self.normalize = config.normalize
        self.out_features = width

    def forward(self, events: Tensor, lengths: Tensor, target: Tensor | None, ages: Tensor | None = None) -> Tensor:
        assert target is not None
        candidate = target[:, None].expand_as(events)
        inputs = torch.cat([events, candidate, events - candidate, events * candidate], dim=2)  # [B, L, 4E]
        weights = self.activation_unit(inputs).squeeze(2)  # [B, L]
        mask = padding_mask(events, lengths)
        if self.normalize:
            weights = weights.masked_fill(~mask, torch.finfo(weights.dtype).min).softmax(dim=1)
        weights = torch.where(mask, weights, 0.0)
        return torch.einsum("bl,ble->be", weights, events)

    def encode(self, events: Tensor, ages: Tensor | None = None) -> Encoded:
        """The events [L, E], and the terms of the first layer without the candidate, [H, L]."""
        first = self._first_layer
        event, _, difference, _ = first.weight.chunk(4, dim=1)
        return events, torch.addmm(first.bias[:, None], event + difference, events.T)

    def attend(self, encoded: Encoded, targets: Tensor) -> Tensor:
        events, terms = encoded
        _, target, difference, product = self._first_layer.weight.chunk(4, dim=1)  # [H, E] each
        maps = (target - difference)[:, None] + product[:, None] * events  # [H, L, E]
        values = torch.addmm(terms.reshape(-1, 1), maps.flatten(0, 1), targets.T)  # [H · L, N]
        values = values.view(len(terms), -1)  # [H, L · N]
        for layer in list(self.activation_unit.layers)[1:]:
            if isinstance(layer, nn.Linear):
                values = torch.addmm(layer.bias[:, None], layer.weight, values)
            else:
                values = layer(values)
        weights = values.view(len(events), len(targets))  # [L, N]
        if self.normalize:
            weights = weights.softmax(dim=0)
        return torch.mm(events.T, weights.to(events.dtype)).T

    @property
    def _first_layer(self) -> nn.Linear:
        first = self.activation_unit.layers[0]
        assert isinstance(first, nn.Linear)
        return first
