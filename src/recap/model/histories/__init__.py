"""Histories: the past events of a user → one vector per row."""

from typing import assert_never

from recap.config.histories import (
    DinConfig,
    HistoryEncoderConfig,
    HstuConfig,
    OneTransConfig,
    PoolingConfig,
    TransformerConfig,
)
from recap.model.histories.din import Din
from recap.model.histories.encoder import HistoryEncoder
from recap.model.histories.hstu import Hstu
from recap.model.histories.one_trans import OneTrans
from recap.model.histories.pooling import Pooling
from recap.model.histories.transformer import Transformer

__all__ = ["HistoryEncoder", "build_history_encoder"]


def build_history_encoder(config: HistoryEncoderConfig, width: int, max_length: int, row_width: int) -> HistoryEncoder:
    """The encoder that `config` describes, of events [B, max_length, width] in rows with `row_width` other inputs."""
    match config:
        case PoolingConfig():
            return Pooling(config, width)
        case DinConfig():
            return Din(config, width)
        case TransformerConfig():
            return Transformer(config, width, max_length)
        case HstuConfig():
            return Hstu(config, width, max_length)
        case OneTransConfig():
            return OneTrans(config, width, max_length, row_width)
        case _:
            assert_never(config)
