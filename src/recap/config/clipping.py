"""How far the gradients of a step may reach before the weights move."""

from typing import Annotated, Literal

from pydantic import Field

from recap.config.base import BaseConfig, PositiveFloat


class NormClippingConfig(BaseConfig):
    """Gradients are scaled down so that the norm of all of them together is at most `max_norm` (Pascanu et al., 2013).

    Their direction stays."""

    kind: Literal["norm"]
    max_norm: PositiveFloat
    """The highest L2 norm over all parameters."""


class ValueClippingConfig(BaseConfig):
    """Every single number of a gradient is brought into [−max_value, max_value]."""

    kind: Literal["value"]
    max_value: PositiveFloat
    """The highest magnitude."""


ClippingConfig = Annotated[NormClippingConfig | ValueClippingConfig, Field(discriminator="kind")]
