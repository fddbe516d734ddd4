"""What makes numbers of any magnitude fit for a network."""

from typing import Annotated, Literal

from pydantic import Field

from recap.config.base import BaseConfig, Check, Name, PositiveFloat, Problems
from recap.config.network import BatchNormConfig, LayerNormConfig

_NO_FLOAT32 = 3.4028235677973366e38
"""float32 rounds it to infinity."""
BINARY = "binary"
"""Stands for all binary features in `join`."""


class JoinConfig(BaseConfig):
    """What every featurization says."""

    join: list[Name] = [BINARY]
    """What is joined to continuous features inside it: `binary`, and names of `features.vectors`, which then have no
    LayerNorm of their own. What is not named is joined behind it."""


class Log1pAbsConfig(JoinConfig):
    """Non-finite → 0, sign(x)·log1p|x|; what is joined follows as it is."""

    kind: Literal["log1p_abs"]


class ClipLog1pAbsConfig(JoinConfig):
    """Non-finite → 0, clamp, sign(x)·log1p|x|; what is joined follows as it is."""

    kind: Literal["clip_log1p_abs"]
    clip_magnitude: Annotated[float, Field(gt=0, lt=_NO_FLOAT32)] = 3e38
    """Continuous features are clamped to ± this before the logarithm."""


class ZScoreLogConfig(JoinConfig):
    """Non-finite → 0, sign(x)·log1p|x|, minus a mean, over a deviation, BatchNorm, clamp; what is joined follows.

    Means and deviations are of the data and fixed: the weights carry them, so the file is read once, to begin a run."""

    kind: Literal["z_score_log"]
    analysis: Name
    """Parquet file of columns `mean` and `deviation` (and `name`), a continuous value a row, in order, after the
    logarithm; `recap data analysis` writes it."""
    clip_magnitude: PositiveFloat = 5.0
    """Continuous features are clamped to ± this at last."""
    batch_norm: BatchNormConfig | None = None
    """Over continuous features, before they are clamped; none given: none."""
    renorm: bool = False
    """Batch renormalisation (arXiv:1702.03275) in place of BatchNorm; needs `batch_norm`, of which it keeps to the
    fields."""

    def checks(self) -> tuple[Check, ...]:
        """Renormalisation of nothing."""
        return (self._has_what_to_renorm,)

    def _has_what_to_renorm(self) -> Problems:
        if self.renorm and self.batch_norm is None:
            yield ("renorm",), "renormalises what batch_norm normalises, but there is none; add 'batch_norm: {}'"


class DoubleNormLogConfig(JoinConfig):
    """Non-finite → 0, sign(x)·log1p|x|, BatchNorm, clamp, join other features, LayerNorm."""

    kind: Literal["double_norm_log"] = "double_norm_log"
    batch_norm: BatchNormConfig | None = BatchNormConfig(momentum=0.01)
    """Over continuous features."""
    clip_magnitude: PositiveFloat = 5.0
    """Continuous features are clamped to ± this after BatchNorm."""
    layer_norm: LayerNormConfig | None = LayerNormConfig()
    """Over continuous features and those of `join` together."""


FeaturizationConfig = Annotated[
    Log1pAbsConfig | ClipLog1pAbsConfig | ZScoreLogConfig | DoubleNormLogConfig, Field(discriminator="kind")
]
