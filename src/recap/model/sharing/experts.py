"""Experts, which are networks with the shape of the backbone, and the gates that mix them."""

from torch import Tensor, nn

from recap.config.backbones import BackboneConfig
from recap.model.backbones import build_backbone, parts_of
from recap.model.inputs.layout import InputLayout
from recap.model.layers import linear


class Experts(nn.Module):
    """`count` networks with weights of their own: [B, layout.width] → `count` × [B, out_features]."""

    def __init__(self, config: BackboneConfig, layout: InputLayout, count: int) -> None:
        super().__init__()
        networks = [build_backbone(config, layout) for _ in range(count)]
        self.networks = nn.ModuleList(networks)
        self.out_features, self.parts = networks[0].out_features, parts_of(networks[0])

    def forward(self, inputs: Tensor) -> list[Tensor]:
        """The output of every expert."""
        return [network(inputs) for network in self.networks]


class Gate(nn.Module):
    """softmax(W x), without a bias: [B, in_features] → [B, experts]."""

    def __init__(self, in_features: int, experts: int) -> None:
        super().__init__()
        self.linear = linear(in_features, experts, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """The weight of every expert; those of a row sum to 1."""
        weights: Tensor = self.linear(inputs).softmax(dim=1)
        return weights


def expert_names(part: str, count: int) -> list[str]:
    """The names of the experts of `part` in reports, counted from 1."""
    return [f"{part}_{number}" for number in range(1, count + 1)]
