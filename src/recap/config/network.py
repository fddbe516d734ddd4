"""The parts of networks: norms, dropout and the MLP."""

from typing import Annotated, Literal

from pydantic import Field

from recap.config.base import BaseConfig, Check, DropRate, Epsilon, PositiveInt, Problems, Rate


class BatchNormConfig(BaseConfig):
    """BatchNorm over the rows of a micro-batch."""

    affine: bool = True
    """Whether to learn a scale and a shift."""
    momentum: Rate = 0.1
    """Weight of each micro-batch in the running statistics."""


class LayerNormConfig(BaseConfig):
    """LayerNorm over the features of a row."""

    epsilon: Epsilon = 1e-3
    """Added to the variance."""
    affine: bool | Literal["scale", "shift"] = True
    """Whether to learn a scale and a shift, or only one of them."""


class DropoutConfig(BaseConfig):
    """Dropout of activations in training."""

    rate: DropRate | None = None
    """Probability of dropping an activation, in every layer. Optional; default: 0.1, unless `rates` is set."""
    rates: Annotated[list[DropRate], Field(min_length=1)] | None = None
    """This probability for each layer with a ReLU, in order. Optional; default: `rate` in every layer."""

    def checks(self) -> tuple[Check, ...]:
        return (self._set_once,)

    def _set_once(self) -> Problems:
        if self.rate is not None and self.rates is not None:
            yield (), "needs at most one of rate and rates, found both"


def dropout_problems(dropout: DropoutConfig | None, relus: int) -> Problems:
    """Check that `dropout` has a rate per layer with a ReLU. Paths are relative to the section that contains it."""
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
    """Whether the last layer also has a ReLU, and dropout if set."""
    final_layer_batch_norm: bool = False
    """Whether the last layer also has the BatchNorm of `batch_norm`."""

    def checks(self) -> tuple[Check, ...]:
        return self._rates_fit, self._last_norm_is_set

    def _rates_fit(self) -> Problems:
        yield from dropout_problems(self.dropout, len(self.layer_sizes) - (0 if self.final_layer_activation else 1))

    def _last_norm_is_set(self) -> Problems:
        if self.final_layer_batch_norm and self.batch_norm is None:
            yield ("final_layer_batch_norm",), "needs batch_norm, which is not set; add 'batch_norm: {}'"
