"""DCNv3 (Li et al., arXiv:2407.13349): an exponential and a linear cross network side by side, without a deep one."""

import torch
from torch import Tensor, nn

from recap.config.backbones import CrossNetworkConfig, DcnV3Config
from recap.model.layers import Dropout, linear


class SelfMaskedLayer(nn.Module):
    """a ⊙ ([c ‖ c ⊙ max(0, LayerNorm(c))] + b) + x with c = W x, half as wide as x: [B, width] twice → [B, width].

    The anchor a is x in an exponential cross network, and the inputs in a linear one. Of an odd width, the last column
    of c has no masked twin.
    """

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        half = -(-width // 2)
        self.weight = linear(width, half, bias=False)
        self.norm = nn.LayerNorm(half)
        self.bias = nn.Parameter(torch.zeros(width))
        self.dropout = Dropout(dropout)

    def forward(self, anchor: Tensor, net: Tensor) -> Tensor:
        """a and x, both [B, width] → [B, width]."""
        crossed = self.weight(net)  # [B, half]
        masked = crossed * self.norm(crossed).relu()
        joined = torch.cat([crossed, masked], dim=1)[:, : self.bias.shape[0]]
        output: Tensor = self.dropout(anchor * (joined + self.bias) + net)
        return output


class DcnV3(nn.Module):
    """Both cross networks, concatenated: [B, in_features] → [B, 2 · in_features].

    n exponential layers multiply up to 2ⁿ inputs, n linear ones up to n + 1.
    """

    def __init__(self, config: DcnV3Config, in_features: int) -> None:
        super().__init__()
        self.exponential = _layers(config.exponential, in_features)
        self.linear = _layers(config.linear, in_features)
        self.parts = [in_features, in_features]
        """Widths of the two networks' outputs, which may have losses of their own."""
        self.out_features = sum(self.parts)

    def forward(self, inputs: Tensor) -> Tensor:
        """[B, in_features] → [B, out_features]."""
        deep = shallow = inputs
        for layer in self.exponential:
            deep = layer(deep, deep)
        for layer in self.linear:
            shallow = layer(inputs, shallow)
        return torch.cat([deep, shallow], dim=1)


def _layers(config: CrossNetworkConfig, width: int) -> nn.ModuleList:
    rate = config.dropout_rate
    return nn.ModuleList(SelfMaskedLayer(width, rate) for _ in range(config.num_layers))
