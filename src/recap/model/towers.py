"""Towers: the representation of a task → its logit."""

import torch
from torch import Tensor, nn

from recap.config.model import AffineMapConfig, MlpTowerConfig, TaskConfig, TowerConfig
from recap.model.backbones import build_backbone
from recap.model.inputs.layout import InputLayout
from recap.model.layers import Mlp, linear


class AffineMap(nn.Module):
    """logit → scale · logit + bias, both learned."""

    def __init__(self, config: AffineMapConfig) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(config.scale))
        self.bias = nn.Parameter(torch.tensor(config.bias))

    def forward(self, logits: Tensor) -> Tensor:
        """Any shape → the same shape."""
        return self.scale * logits + self.bias


class Tower(nn.Module):
    """The network of one task: [B, layout.width] → logits [B] float32."""

    def __init__(self, config: TaskConfig, layout: InputLayout) -> None:
        super().__init__()
        self.network = _build_network(config.tower, layout)
        self.affine_map = AffineMap(config.affine_map) if config.affine_map is not None else nn.Identity()

    @property
    def last_bias(self) -> nn.Parameter:
        """The bias that is added last, a scalar or [1]: that of the affine map, else of the last Linear."""
        if isinstance(self.affine_map, AffineMap):
            return self.affine_map.bias
        (*_, last) = (module for module in self.network.modules() if isinstance(module, nn.Linear))
        return last.bias

    def forward(self, inputs: Tensor) -> Tensor:
        """[B, layout.width] → [B]."""
        logits: Tensor = self.affine_map(self.network(inputs).squeeze(1))
        return logits


def _build_network(config: TowerConfig, layout: InputLayout) -> nn.Module:
    match config:
        case MlpTowerConfig():
            return Mlp(layout.width, [*config.layer_sizes, 1], config.batch_norm, config.dropout, exact_output=True)
        case _:  # any backbone; build_backbone ends in assert_never
            network = build_backbone(config, layout)
            return nn.Sequential(network, linear(network.out_features, 1, exact=True))
