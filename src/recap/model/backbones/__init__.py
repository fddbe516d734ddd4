"""Backbones: networks from the joined inputs to what towers read. Each has `out_features`."""

from typing import assert_never

from recap.config.model import BackboneConfig, MaskNetConfig, MlpConfig
from recap.model.backbones.mask_net import MaskNet
from recap.model.layers import Mlp


def build_mlp(config: MlpConfig, in_features: int) -> Mlp:
    """The MLP that `config` describes."""
    return Mlp(
        in_features,
        config.layer_sizes,
        config.batch_norm,
        config.dropout,
        final_layer_activation=config.final_layer_activation,
    )


def build_backbone(config: BackboneConfig, in_features: int) -> Mlp | MaskNet:
    """The network that `config` describes, reading [B, in_features]."""
    match config:
        case MlpConfig():
            return build_mlp(config, in_features)
        case MaskNetConfig():
            mlp = build_mlp(config.mlp, MaskNet.blocks_width(config)) if config.mlp is not None else None
            return MaskNet(config, in_features, mlp)
        case _:
            assert_never(config)
