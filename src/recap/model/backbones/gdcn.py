"""Gated DCN (Wang et al., CIKM 2023, arXiv:2311.04635): cross layers with an information gate."""

from torch import Tensor, nn

from recap.config.backbones import GdcnConfig
from recap.model.backbones.dcn import cross_and_deep
from recap.model.layers import Mlp, linear


class GatedCrossLayer(nn.Module):
    """c₀ ⊙ (W c + b) ⊙ σ(G c) + c."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = linear(width, width)
        self.gate = linear(width, width, bias=False)

    def forward(self, first: Tensor, net: Tensor) -> Tensor:
        """c₀ and c, both [B, width] → [B, width]."""
        output: Tensor = first * self.weight(net) * self.gate(net).sigmoid() + net
        return output


class Gdcn(nn.Module):
    """Gated cross layers, with a deep MLP in parallel or after them: [B, in_features] → [B, out_features]."""

    def __init__(self, config: GdcnConfig, in_features: int, mlp: Mlp | None) -> None:
        super().__init__()
        self.parallel = config.use_parallel
        self.cross = nn.ModuleList(GatedCrossLayer(in_features) for _ in range(config.num_layers))
        self.mlp = mlp
        if mlp is None:
            self.out_features = in_features
        else:
            self.out_features = mlp.out_features + (in_features if self.parallel else 0)

    def forward(self, inputs: Tensor) -> Tensor:
        """[B, in_features] → [B, out_features]."""
        net = inputs
        for layer in self.cross:
            net = layer(inputs, net)
        return cross_and_deep(inputs, net, self.mlp, parallel=self.parallel)
