"""Embeddings of numbers: how a continuous value, once normalized, becomes a vector."""

from typing import Annotated, Literal

from pydantic import Field

from recap.config.base import BaseConfig, PositiveFloat, PositiveInt


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
