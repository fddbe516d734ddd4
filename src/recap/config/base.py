"""What every section of the configuration shares: strictness and the common field types."""

from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
)


class BaseConfig(BaseModel):
    """A section of the configuration: unknown keys refused, no silent conversions, immutable."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @model_serializer(mode="wrap")
    def _what_null_says(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without the nulls that say nothing: those that are the default."""
        fields = type(self).model_fields
        return {key: item for key, item in dump(self).items() if item is not None or fields[key].default is not None}


PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Rate = Annotated[float, Field(gt=0, le=1)]
"""A share in (0, 1], such as a sampling rate."""
DropRate = Annotated[float, Field(ge=0, lt=1)]
"""A probability in [0, 1), such as a dropout rate."""
SMALLEST_EPSILON = 1e-12
Epsilon = Annotated[float, Field(ge=SMALLEST_EPSILON)]
"""What keeps a division finite; float32 still tells the smallest from 0."""
Name = Annotated[str, Field(min_length=1)]


def _one_or_many(value: object) -> object:
    return [value] if isinstance(value, str) else value


Globs = Annotated[
    list[Name], BeforeValidator(_one_or_many, json_schema_input_type=Name | list[Name]), Field(min_length=1)
]
"""One glob, or a list of them."""
