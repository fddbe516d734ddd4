"""Sharing: inputs → the representation that the tower of each task reads."""

from typing import assert_never

from recap.config.model import ModelConfig
from recap.config.sharing import (
    CgcConfig,
    DeepEnsembleConfig,
    MmoeConfig,
    PleConfig,
    PosoConfig,
    ShareAllConfig,
    ShareNoneConfig,
    SharePartialConfig,
    StemConfig,
)
from recap.model.backbones import build_backbone
from recap.model.inputs.layout import InputLayout
from recap.model.sharing.deep_ensemble import DeepEnsemble
from recap.model.sharing.mmoe import Mmoe
from recap.model.sharing.one_backbone import ShareAll, ShareNone, SharePartial
from recap.model.sharing.ple import Ple
from recap.model.sharing.poso import Poso
from recap.model.sharing.sharing import Sharing
from recap.model.sharing.stem import Stem

__all__ = ["Sharing", "build_sharing"]


def build_sharing(config: ModelConfig, layout: InputLayout, domains: int = 0) -> Sharing:
    """The sharing that `config` describes, with inputs [B, layout.width]. `domains`: as in `build_backbone`."""
    tasks = len(config.tasks)
    match config.sharing:
        case ShareNoneConfig():
            return ShareNone(layout, tasks)
        case ShareAllConfig():
            assert config.backbone is not None
            return ShareAll(build_backbone(config.backbone, layout, domains), tasks)
        case SharePartialConfig():
            assert config.backbone is not None
            return SharePartial(build_backbone(config.backbone, layout, domains), layout, tasks)
        case MmoeConfig():
            assert config.backbone is not None
            return Mmoe(config.sharing, config.backbone, layout, list(config.tasks))
        case CgcConfig() | PleConfig():
            assert config.backbone is not None
            return Ple(config.sharing, config.backbone, layout, list(config.tasks))
        case StemConfig():
            assert config.backbone is not None
            return Stem(config.sharing, config.backbone, layout, list(config.tasks))
        case PosoConfig():
            assert config.backbone is not None
            return Poso(config.sharing, config.backbone, layout, tasks)
        case DeepEnsembleConfig():
            assert config.backbone is not None
            return DeepEnsemble(config.sharing, config.backbone, layout, tasks)
        case _:
            assert_never(config.sharing)
