"""What makes numbers of any magnitude fit for a network."""

from typing import Literal

from recap.config.base import BaseConfig, PositiveFloat
from recap.config.network import BatchNormConfig, LayerNormConfig


class DoubleNormLogConfig(BaseConfig):
    """Non-finite → 0, sign(x)·log1p|x|, BatchNorm, clamp, join binary features, LayerNorm."""

    kind: Literal["double_norm_log"] = "double_norm_log"
    batch_norm: BatchNormConfig | None = BatchNormConfig(momentum=0.01)
    """Over continuous features."""
    clip_magnitude: PositiveFloat = 5.0
    """Continuous features are clamped to ± this after BatchNorm."""
    layer_norm: LayerNormConfig | None = LayerNormConfig()
    """Over continuous and binary features together."""
