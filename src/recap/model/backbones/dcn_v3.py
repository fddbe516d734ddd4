"""DCNv3 (Li et al., arXiv:2407.13349): an exponential and a linear cross network side by side, without a deep one."""

from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn

from recap.config.backbones import CrossNetworkConfig, DcnV3Config
from recap.model.inputs.layout import InputLayout
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
    """Both cross networks, concatenated: [B, layout.width] → [B, 2 · layout.width].

    n exponential layers multiply up to 2ⁿ inputs, n linear ones up to n + 1. Both read the first half of every
    embedding and of the numbers, then the second halves, so that one half of each meets c and the other its mask.
    """

    order: Tensor  # [layout.width] int64

    def __init__(self, config: DcnV3Config, layout: InputLayout) -> None:
        super().__init__()
        width = layout.width
        self.register_buffer("order", torch.tensor(_halves(layout)), persistent=False)
        self.exponential, self.linear = _layers(config.exponential, width), _layers(config.linear, width)
        self.parts = [width, width]
        """Widths of the two networks' outputs, which may have losses of their own."""
        self.out_features = sum(self.parts)

    def forward(self, inputs: Tensor) -> Tensor:
        """[B, layout.width] → [B, out_features]."""
        inputs = inputs[:, self.order]
        deep = shallow = inputs
        for layer in self.exponential:
            deep = layer(deep, deep)
        for layer in self.linear:
            shallow = layer(inputs, shallow)
        return torch.cat([deep, shallow], dim=1)


def _halves(layout: InputLayout) -> list[int]:
    """The columns of the first half of each embedding and of the numbers, then those of the second halves."""
    first: list[int] = []
    second: list[int] = []
    for start, end in pairwise(accumulate([layout.numbers, *layout.embeddings], initial=0)):
        middle = -(-(start + end) // 2)
        first += range(start, middle)
        second += range(middle, end)
    return first + second


def _layers(config: CrossNetworkConfig, width: int) -> nn.ModuleList:
    rate = config.dropout_rate
    return nn.ModuleList(SelfMaskedLayer(width, rate) for _ in range(config.num_layers))
