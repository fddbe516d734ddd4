"""The small parts every network is made of: norms, dropout, and the MLP."""

from typing import Annotated, Literal

from pydantic import Field

from recap.config.base import BaseConfig, DropRate, Epsilon, PositiveInt, Rate


class BatchNormConfig(BaseConfig):
    """BatchNorm over the rows of a micro-batch."""

    affine: bool = True
    """Whether a learned scale and shift follow."""
    momentum: Rate = 0.1
    """Share of a new micro-batch in the running statistics."""


class LayerNormConfig(BaseConfig):
    """LayerNorm over the features of a row."""

    epsilon: Epsilon = 1e-3
    """Added to the variance."""
    affine: bool = True
    """Whether a learned scale and shift follow."""


class DropoutConfig(BaseConfig):
    """Dropout of activations while training."""

    rate: DropRate = 0.1
    """Probability that an activation is dropped."""


class MlpConfig(BaseConfig):
    """Linear → BatchNorm → ReLU → Dropout for every layer but the last; the last is Linear."""

    kind: Literal["mlp"] = "mlp"
    layer_sizes: Annotated[list[PositiveInt], Field(min_length=1)]
    """Width of each layer."""
    batch_norm: BatchNormConfig | None = None
    """After the Linear of every layer but the last; none given: none."""
    dropout: DropoutConfig | None = None
    """After each ReLU; none given: none."""
    final_layer_activation: bool = False
    """ReLU (and the dropout, if there is one) after the last layer too."""
