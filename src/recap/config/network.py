"""The parts that networks are built from: norms, dropout and the MLP."""

from typing import Annotated, Literal

from pydantic import Field

from recap.config.base import BaseConfig, Check, DropRate, Epsilon, PositiveInt, Problems, Rate


class BatchNormConfig(BaseConfig):
    """BatchNorm over the rows of a micro-batch."""

    affine: bool = True
    """Whether a learned scale and shift follow."""
    momentum: Rate = 0.1
    """Weight of a new micro-batch in the running statistics."""


class LayerNormConfig(BaseConfig):
    """LayerNorm over the features of a row."""

    epsilon: Epsilon = 1e-3
    """Added to the variance."""
    affine: bool | Literal["scale", "shift"] = True
    """Whether a learned scale and shift follow, or only one of them."""


class DropoutConfig(BaseConfig):
    """Dropout of activations while training."""

    rate: DropRate | None = None
    """Probability with which an activation is dropped, in every layer. Optional; default: 0.1, unless `rates` is
    set."""
    rates: Annotated[list[DropRate], Field(min_length=1)] | None = None
    """The same for each layer that has a ReLU, in order. Optional."""

    def checks(self) -> tuple[Check, ...]:
        return (self._set_once,)

    def _set_once(self) -> Problems:
        if self.rate is not None and self.rates is not None:
            yield (), "at most one of rate and rates may be set; found both"


def dropout_problems(dropout: DropoutConfig | None, relus: int) -> Problems:
    """`dropout` has one rate per layer with a ReLU; the path is relative to the section that contains it."""
    if dropout is not None and dropout.rates is not None and len(dropout.rates) != relus:
        yield (
            ("dropout", "rates"),
            f"must have one rate per layer with a ReLU, {relus}; found {len(dropout.rates)}",
        )


class MlpConfig(BaseConfig):
    """Linear → BatchNorm → ReLU → Dropout in every layer except the last, which is a Linear."""

    kind: Literal["mlp"] = "mlp"
    layer_sizes: Annotated[list[PositiveInt], Field(min_length=1)]
    """Width of each layer."""
    batch_norm: BatchNormConfig | None = None
    """BatchNorm after the Linear of every layer except the last. Optional; off by default."""
    dropout: DropoutConfig | None = None
    """Dropout after every ReLU. Optional; off by default."""
    final_layer_activation: bool = False
    """Whether the last layer also has a ReLU, and the dropout if it is set."""
    final_layer_batch_norm: bool = False
    """Whether the last layer also has the BatchNorm of `batch_norm`."""

    def checks(self) -> tuple[Check, ...]:
        return self._rates_fit, self._last_norm_is_set

    def _rates_fit(self) -> Problems:
        yield from dropout_problems(self.dropout, len(self.layer_sizes) - (0 if self.final_layer_activation else 1))

    def _last_norm_is_set(self) -> Problems:
        if self.final_layer_batch_norm and self.batch_norm is None:
            yield ("final_layer_batch_norm",), "uses batch_norm, which is not set; add it"
