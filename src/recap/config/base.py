"""What every section of the configuration shares: strictness and the common field types."""

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class BaseConfig(BaseModel):
    """A section of the configuration: unknown keys refused, no silent conversions, immutable."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Rate = Annotated[float, Field(gt=0, le=1)]
"""A share in (0, 1], such as a sampling rate."""
DropRate = Annotated[float, Field(ge=0, lt=1)]
"""A probability in [0, 1), such as a dropout rate."""
Name = Annotated[str, Field(min_length=1)]


def _one_or_many(value: object) -> object:
    return [value] if isinstance(value, str) else value


Globs = Annotated[list[Name], BeforeValidator(_one_or_many), Field(min_length=1)]
"""One glob, or a list of them."""
