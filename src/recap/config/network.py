"""The small parts every network is made of: norms, dropout, and the MLP."""

from typing import Annotated, Literal

from pydantic import Field

from recap.config.base import BaseConfig, Check, DropRate, Epsilon, PositiveInt, Problems, Rate


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
    affine: bool | Literal["scale", "shift"] = True
    """Whether a learned scale and shift follow, or one of them alone."""


class DropoutConfig(BaseConfig):
    """Dropout of activations while training."""

    rate: DropRate | None = None
    """Probability that an activation is dropped, the same in every layer; neither this nor `rates`: 0.1."""
    rates: Annotated[list[DropRate], Field(min_length=1)] | None = None
    """The same of each layer by itself: one for every layer that has a ReLU, in order."""

    def checks(self) -> tuple[Check, ...]:
        """One probability, and many."""
        return (self._said_once,)

    def _said_once(self) -> Problems:
        if self.rate is not None and self.rates is not None:
            yield (), "at most one of rate and rates may be set; found both"


def rates_fit(dropout: DropoutConfig | None, relus: int) -> Problems:
    """As many rates as there are layers with a ReLU; told from the section that holds `dropout`."""
    if dropout is not None and dropout.rates is not None and len(dropout.rates) != relus:
        yield (
            ("dropout", "rates"),
            f"must hold one rate for every layer that has a ReLU, {relus} of them; found {len(dropout.rates)}",
        )


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
    final_layer_batch_norm: bool = False
    """BatchNorm, as `batch_norm` says it, after the Linear of the last layer too."""

    def checks(self) -> tuple[Check, ...]:
        return self._rates_fit, self._last_norm_is_there

    def _rates_fit(self) -> Problems:
        yield from rates_fit(self.dropout, len(self.layer_sizes) - (0 if self.final_layer_activation else 1))

    def _last_norm_is_there(self) -> Problems:
        if self.final_layer_batch_norm and self.batch_norm is None:
            yield ("final_layer_batch_norm",), "is a BatchNorm as batch_norm says it, and there is none; add it"
