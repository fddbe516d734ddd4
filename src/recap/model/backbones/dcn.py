"""DCN-v2 (Wang et al., WWW 2021, arXiv:2008.13535): cross layers of full or low rank, and deep MLPs."""

import torch
from torch import Tensor, nn

from recap.config.backbones import DcnConfig
from recap.model.layers import Mlp, linear


class CrossLayer(nn.Module):
    """x₀ ⊙ (W x + b) + x (eq. 1), with W = U Vᵀ (eq. 2) if `rank` is given."""

    def __init__(self, width: int, rank: int | None) -> None:
        super().__init__()
        if rank is None:
            self.weight: nn.Module = linear(width, width)
        else:
            self.weight = nn.Sequential(linear(width, rank, bias=False), linear(rank, width))

    def forward(self, first: Tensor, net: Tensor) -> Tensor:
        """x₀ and x, both [B, width] → [B, width]."""
        output: Tensor = first * self.weight(net) + net
        return output


class Dcn(nn.Module):
    """Cross layers, a deep MLP in parallel or after them, an output MLP: [B, in_features] → [B, out_features]."""

    def __init__(self, config: DcnConfig, in_features: int, parallel_mlp: Mlp | None, output_mlp: Mlp | None) -> None:
        super().__init__()
        self.parallel = config.use_parallel
        layers, rank = config.poly_degree, config.projection_dim
        self.cross = nn.ModuleList(CrossLayer(in_features, rank) for _ in range(layers))
        self.parallel_mlp = parallel_mlp
        self.output_mlp = output_mlp if output_mlp is not None else nn.Identity()
        self.out_features = (
            output_mlp.out_features if output_mlp is not None else self.output_mlp_width(config, in_features)
        )

    @staticmethod
    def output_mlp_width(config: DcnConfig, in_features: int) -> int:
        """Width of the outputs of the cross layers and `parallel_mlp`, which the output MLP reads."""
        if config.parallel_mlp is None:
            return in_features
        return config.parallel_mlp.layer_sizes[-1] + (in_features if config.use_parallel else 0)

    def forward(self, inputs: Tensor) -> Tensor:
        """[B, in_features] → [B, out_features]."""
        net = inputs
        for layer in self.cross:
            net = layer(inputs, net)
        output: Tensor = self.output_mlp(cross_and_deep(inputs, net, self.parallel_mlp, parallel=self.parallel))
        return output


def cross_and_deep(inputs: Tensor, crossed: Tensor, deep: Mlp | None, *, parallel: bool) -> Tensor:
    """The output of cross layers, [B, in_features], concatenated with that of a deep network or fed into it."""
    if deep is None:
        return crossed
    return torch.cat([crossed, deep(inputs)], dim=1) if parallel else deep(crossed)
