"""Backbones: inputs → the representation that towers read. Each has `out_features`."""

from typing import assert_never

from recap.config.backbones import (
    BackboneConfig,
    DcnConfig,
    DcnV3Config,
    DlrmConfig,
    FinalMlpConfig,
    GdcnConfig,
    MaskNetConfig,
    QnnConfig,
    RankMixerConfig,
    WukongConfig,
)
from recap.config.network import MlpBackboneConfig, MlpConfig
from recap.model.backbones.dcn import Dcn
from recap.model.backbones.dcn_v3 import DcnV3
from recap.model.backbones.dlrm import Dlrm
from recap.model.backbones.final_mlp import FinalMlp
from recap.model.backbones.gdcn import Gdcn
from recap.model.backbones.mask_net import MaskNet
from recap.model.backbones.qnn import Qnn
from recap.model.backbones.rank_mixer import RankMixer
from recap.model.backbones.wukong import Wukong
from recap.model.inputs.layout import InputLayout
from recap.model.layers import EnsembleMlp, Mlp, StarMlp

Backbone = Mlp | EnsembleMlp | StarMlp | MaskNet | Dcn | DcnV3 | Dlrm | Gdcn | FinalMlp | Qnn | Wukong | RankMixer
"""Any backbone: [B, layout.width] → [B, out_features]; an ensemble has a row for each member, [B · M, out_features]."""


def build_backbone(config: BackboneConfig, layout: InputLayout, domains: int = 0) -> Backbone:
    """The network that `config` describes, with inputs [B, layout.width].

    `domains`: above 0, an MLP has layers for this number of domains, and reads the domain of each row too.
    Raises ConfigError for values that do not fit this width.
    """
    width = layout.width
    match config:
        case MlpBackboneConfig() if domains:
            return StarMlp(width, config, domains)
        case MlpBackboneConfig():
            ensemble = config.ensemble
            return Mlp(width, config) if ensemble is None else EnsembleMlp(width, config, ensemble)
        case MaskNetConfig():
            return MaskNet(config, width, _optional_mlp(config.mlp, MaskNet.blocks_width(config)))
        case DcnConfig():
            deep = _optional_mlp(config.parallel_mlp, width)
            return Dcn(config, width, deep, _optional_mlp(config.output_mlp, Dcn.output_mlp_width(config, width)))
        case DcnV3Config():
            return DcnV3(config, layout)
        case DlrmConfig():
            bottom = Mlp(layout.numbers, config.bottom_mlp)
            top_width = Dlrm.top_mlp_width(layout, bottom.out_features)
            return Dlrm(layout, bottom, _optional_mlp(config.top_mlp, top_width))
        case GdcnConfig():
            return Gdcn(config, width, _optional_mlp(config.mlp, width))
        case FinalMlpConfig():
            return FinalMlp(config, layout, Mlp(width, config.first.mlp), Mlp(width, config.second.mlp))
        case QnnConfig():
            return Qnn(config, width)
        case WukongConfig():
            return Wukong(config, layout, _optional_mlp(config.mlp, Wukong.fields_width(config)))
        case RankMixerConfig():
            return RankMixer(config, width)
        case _:
            assert_never(config)


def members_of(backbone: Backbone) -> int:
    """The rows that `backbone` has for each row of its inputs."""
    return backbone.members if isinstance(backbone, EnsembleMlp) else 1


def parts_of(backbone: Backbone) -> list[int]:
    """The widths of the networks whose outputs stand side by side in that of `backbone`; none if it is one network."""
    return backbone.parts if isinstance(backbone, DcnV3) else []


def _optional_mlp(config: MlpConfig | None, in_features: int) -> Mlp | None:
    return Mlp(in_features, config) if config is not None else None
