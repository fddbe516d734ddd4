"""Featurizations: how continuous features of any magnitude are normalized, and embeddings of the normalized values."""

from typing import Annotated, Literal

from pydantic import Field

from recap.config.base import BaseConfig, Check, Name, PositiveFloat, PositiveInt, Problems
from recap.config.network import BatchNormConfig, LayerNormConfig

_NO_FLOAT32 = 3.4028235677973366e38
"""The smallest number that float32 rounds to infinity."""
BINARY = "binary"
"""Stands for all binary features in `join`."""


class FeaturizationBase(BaseConfig):
    """The fields of every featurization."""

    join: list[Name] = [BINARY]
    """Features to join to the continuous ones inside the featurization: `binary`, and names of `features.vectors`,
    which then have no LayerNorm of their own. All others are joined after it."""
    missing: Literal["zero", "learned"] = "zero"
    """What stands for a continuous value that is missing (null, NaN or infinite). `zero`: the number 0, normalized like
    any other. `learned`: a learned value for each column, which starts at 0 and replaces the normalized one; with
    `model.numbers`, a learned vector. Missing values then do not count in the means
    and deviations of `batch_norm`, but do with `renorm`, as 0."""


class Log1pAbsConfig(FeaturizationBase):
    """Non-finite → 0, sign(x)·log1p|x|; joined features follow unchanged."""

    kind: Literal["log1p_abs"]


class ClipLog1pAbsConfig(FeaturizationBase):
    """Non-finite → 0, clamp, sign(x)·log1p|x|; joined features follow unchanged."""

    kind: Literal["clip_log1p_abs"]
    clip_magnitude: Annotated[float, Field(gt=0, lt=_NO_FLOAT32)] = 3e38
    """Continuous features are clamped to ± this value before the logarithm."""


class ZScoreLogConfig(FeaturizationBase):
    """Non-finite → 0, sign(x)·log1p|x|, (x − mean) / deviation, BatchNorm, clamp; joined features follow unchanged.

    Means and deviations of the data are stored with the weights; their file is read only when a run starts."""

    kind: Literal["z_score_log"]
    analysis: Name
    """Parquet file with the columns `name`, `mean` and `deviation` (after the logarithm) and a row per continuous
    value, in any order; `recap data analysis` writes it."""
    clip_magnitude: PositiveFloat = 5.0
    """Continuous features are clamped to ± this value at the end."""
    batch_norm: BatchNormConfig | None = None
    """BatchNorm of continuous features, before they are clamped. Optional; off by default."""
    renorm: bool = False
    """Whether to use batch renormalization (arXiv:1702.03275) instead of BatchNorm; `batch_norm` must be set."""

    def checks(self) -> tuple[Check, ...]:
        return (self._renorm_has_batch_norm,)

    def _renorm_has_batch_norm(self) -> Problems:
        if self.renorm and self.batch_norm is None:
            yield ("renorm",), "needs batch_norm, which is not set; add 'batch_norm: {}'"


class QuantileConfig(FeaturizationBase):
    """Non-finite → 0, then the share of the training rows whose value is lower, or the normal value of that share.

    As scikit-learn's `QuantileTransformer`, but a value that several quantiles equal has the middle of their shares,
    also if it is the lowest or the highest. The quantiles are those of a sample of the training rows when a run starts,
    and are stored with the weights."""

    kind: Literal["quantile"]
    quantiles: Annotated[int, Field(ge=2, le=10_000)] = 1000
    """Quantiles of each column, evenly spaced from the lowest value to the highest. Between them the map is linear, and
    beyond them constant."""
    output: Literal["normal", "uniform"] = "normal"
    """`uniform`: the share, 0 to 1. `normal`: the value below which a standard normal has this share, within ±5.2."""


class DoubleNormLogConfig(FeaturizationBase):
    """Non-finite → 0, sign(x)·log1p|x|, BatchNorm, clamp, join, optional LayerNorm."""

    kind: Literal["double_norm_log"] = "double_norm_log"
    batch_norm: BatchNormConfig | None = BatchNormConfig(momentum=0.01)
    """BatchNorm of continuous features; null turns it off."""
    clip_magnitude: PositiveFloat = 5.0
    """Continuous features are clamped to ± this value after BatchNorm."""
    layer_norm: LayerNormConfig | None = None
    """LayerNorm of continuous and joined features together, as in the published ranker; `{}` turns it on. It removes
    the mean and the scale of a row's values: of one value nothing is left, of two only their order. Optional; off by
    default."""


FeaturizationConfig = Annotated[
    Log1pAbsConfig | ClipLog1pAbsConfig | ZScoreLogConfig | QuantileConfig | DoubleNormLogConfig,
    Field(discriminator="kind"),
]


class PiecewiseLinearConfig(BaseConfig):
    """Piecewise linear encoding, then a Linear for each column (Gorishniy et al. 2022, arXiv:2203.05556, section 3.2).

    Bin t holds 0 for values below it, 1 for values above it, and the position of a value inside it. The edges are
    quantiles of a sample of the training rows when a run starts, and are stored with the weights."""

    kind: Literal["piecewise_linear"]
    bins: Annotated[int, Field(ge=1, le=1000)] = 48
    """Bins of each column, at most: equal edges become one."""
    width: PositiveInt = 16
    """Width of the embedding."""
    activation: Literal["relu", "none"] = "relu"
    """What follows the Linear."""


class PeriodicConfig(BaseConfig):
    """sin(2πcx) and cos(2πcx), then a Linear for each column and ReLU (PLR of Gorishniy et al. 2022, section 3.3).

    The frequencies c are learned, for each column its own."""

    kind: Literal["periodic"]
    frequencies: PositiveInt = 48
    """Frequencies of each column."""
    sigma: PositiveFloat = 0.1
    """Standard deviation of the normal distribution that the frequencies start from."""
    width: PositiveInt = 16
    """Width of the embedding."""


class AutoDisConfig(BaseConfig):
    """AutoDis (Guo et al. 2021, arXiv:2012.08986): the mean of learned vectors, weighted by a softmax for the value."""

    kind: Literal["auto_dis"]
    buckets: PositiveInt = 20
    """Learned vectors of each column, the meta-embeddings."""
    width: PositiveInt = 16
    """Width of the embedding."""
    temperature: PositiveFloat = 1.0
    """Divides the scores before the softmax; the lower, the fewer vectors share a value."""
    skip: float = 0.1
    """Factor of the first layer's outputs that are added to those of the second, α in the paper."""


NumbersConfig = Annotated[PiecewiseLinearConfig | PeriodicConfig | AutoDisConfig, Field(discriminator="kind")]
