"""What every section of the configuration shares: strictness, the common field types, and how sections disagree."""

from collections.abc import Iterator
from contextlib import nullcontext, suppress
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

DEFAULT = "default"
"""The key that stands for everything not named beside it."""


KeyPath = tuple[str | int, ...]
"""Where something stands in the configuration, key by key."""


def dotted(path: KeyPath) -> str:
    """`path` as a person writes it; names with dots, and empty ones, in quotes."""
    return ".".join(f'"{step}"' if isinstance(step, str) and ("." in step or not step) else str(step) for step in path)


Problems = Iterator[tuple[KeyPath, str]]
"""The path of a field, from the section that tells, and what does not go together there."""


class BaseConfig(BaseModel):
    """A section of the configuration: unknown keys refused, no silent conversions, immutable."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    def checks(self) -> tuple[Problems, ...]:
        """What fields, each good by itself, do not agree about; asked once the whole file is read."""
        return ()

    @model_serializer(mode="wrap")
    def _what_null_says(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without the nulls that say nothing: those that are the default."""
        fields = type(self).model_fields
        return {key: item for key, item in dump(self).items() if item is not None or fields[key].default is not None}


class ProblemError(ValueError):
    """Fields that do not go together; `problems` lists each with its path."""

    def __init__(self, problems: list[tuple[KeyPath, str]]) -> None:
        super().__init__("; ".join(f"{'.'.join(map(str, path))}: {text}" for path, text in problems))
        self.problems = problems


class WholeConfig(BaseConfig):
    """The root of a file: refuses what its sections, and the fields of each, disagree about, all of it at once."""

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        problems = list(all_problems(self))
        if problems:
            raise ProblemError(problems)
        return self


_LACKING = (AttributeError, TypeError)
"""What a check meets where a field is not there."""


def all_problems(value: Any, path: KeyPath = (), *, partly: bool = False) -> Problems:
    """Those of `value` and of every section below it.

    `partly`: sections may lack fields; a check ends at the first that it misses.
    """
    below: Any = ()
    if isinstance(value, BaseConfig):
        checks: tuple[Problems, ...] = ()
        with suppress(*_LACKING) if partly else nullcontext():
            checks = value.checks()
        for check in checks:
            with suppress(*_LACKING) if partly else nullcontext():
                yield from (((*path, *where), text) for where, text in check)
        below = vars(value).items()
    elif isinstance(value, dict | list):
        below = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in below:
        yield from all_problems(item, (*path, key), partly=partly)


MOST = 2**31 - 1
"""No count of steps, rows, codes or layers is above it."""
PositiveInt = Annotated[int, Field(gt=0, le=MOST)]
NonNegativeInt = Annotated[int, Field(ge=0, le=MOST)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Rate = Annotated[float, Field(gt=0, le=1)]
"""A share in (0, 1], such as a sampling rate."""
DropRate = Annotated[float, Field(ge=0, lt=1)]
"""A probability in [0, 1), such as a dropout rate."""
MIN_EPSILON = 1e-12
Epsilon = Annotated[float, Field(ge=MIN_EPSILON)]
"""What keeps a division finite; float32 still tells the smallest from 0."""


def _whole(text: str) -> str:
    if "\0" in text:
        raise ValueError("may not hold the character NUL")
    return text


Name = Annotated[str, Field(min_length=1), AfterValidator(_whole)]


def _one_or_many(value: object) -> object:
    if not isinstance(value, str | list):
        raise ValueError("expected a glob, or a list of globs")
    return [value] if isinstance(value, str) else value


Globs = Annotated[
    list[Name], BeforeValidator(_one_or_many, json_schema_input_type=Name | list[Name]), Field(min_length=1)
]
"""One glob, or a list of them."""
