"""Towers: what the task shares → the task's logit."""

from typing import assert_never

import torch
from torch import Tensor, nn

from recap.config.model import AffineMapConfig, MaskNetConfig, MlpTowerConfig, TaskConfig, TowerConfig
from recap.model.backbones import build_backbone
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
    """The network of one task: [B, in_features] → logits [B] float32."""

    def __init__(self, config: TaskConfig, in_features: int) -> None:
        super().__init__()
        self.network = _build_network(config.tower, in_features)
        self.affine_map = AffineMap(config.affine_map) if config.affine_map is not None else nn.Identity()

    def forward(self, inputs: Tensor) -> Tensor:
        """[B, in_features] → [B]."""
        logits: Tensor = self.affine_map(self.network(inputs).squeeze(1))
        return logits


def _build_network(config: TowerConfig, in_features: int) -> nn.Module:
    match config:
        case MlpTowerConfig():
            return Mlp(in_features, [*config.layer_sizes, 1], config.batch_norm, config.dropout)
        case MaskNetConfig():
            network = build_backbone(config, in_features)
            return nn.Sequential(network, linear(network.out_features, 1))
        case _:
            assert_never(config)
