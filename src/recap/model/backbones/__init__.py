"""Backbones: networks from the joined inputs to what towers read. Each has `out_features`."""

from typing import assert_never

from recap.config.backbones import BackboneConfig, MaskNetConfig
from recap.config.network import MlpConfig
from recap.model.backbones.mask_net import MaskNet
from recap.model.inputs import InputLayout
from recap.model.layers import Mlp

Backbone = Mlp | MaskNet
"""Any of them: [B, layout.width] → [B, out_features]."""


def build_mlp(config: MlpConfig, in_features: int) -> Mlp:
    """The MLP that `config` describes."""
    return Mlp(
        in_features,
        config.layer_sizes,
        config.batch_norm,
        config.dropout,
        final_layer_activation=config.final_layer_activation,
    )


def build_backbone(config: BackboneConfig, layout: InputLayout) -> Backbone:
    """The network that `config` describes, reading [B, layout.width]."""
    match config:
        case MlpConfig():
            return build_mlp(config, layout.width)
        case MaskNetConfig():
            mlp = build_mlp(config.mlp, MaskNet.blocks_width(config)) if config.mlp is not None else None
            return MaskNet(config, layout.width, mlp)
        case _:
            assert_never(config)
