"""The base of every section: strictness, field types, markers of fields, and checks."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, Self

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

from recap.errors import MAX_PROBLEMS

DEFAULT = "default"
"""The key for all names that are not listed."""

KeyPath = tuple[str | int, ...]
"""The position of a value: the keys and indices from the root."""


def dotted(path: KeyPath) -> str:
    """`path` as text; names that are empty or contain dots are quoted."""
    return ".".join(f'"{step}"' if isinstance(step, str) and ("." in step or not step) else str(step) for step in path)


@dataclass(frozen=True)
class FreeOnResume:
    """Marks a field that may change on resume, because no step depends on it."""


@dataclass(frozen=True)
class ShapesWeights:
    """Marks a field that trained weights depend on: they cannot be used with another value."""


@dataclass(frozen=True)
class OrderMatters:
    """Marks a mapping whose order is that of the model's inputs or outputs."""


Problems = Iterator[tuple[KeyPath, str]]
"""(path, message) of each mistake; the path is relative to the section that reports it."""
Check = Callable[[], Problems]
"""Finds problems among fields that are each valid on their own."""


class MissingValue(Exception):
    """Ends a check that reads a missing or invalid value, which is already reported."""


class BaseConfig(BaseModel):
    """A section of the configuration: immutable, without unknown keys or implicit conversions."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    def checks(self) -> tuple[Check, ...]:
        """Checks across the fields of this section."""
        return ()

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Called for missing attributes only. Raises MissingValue for a field that a partial section lacks."""
            if name in type(self).model_fields:
                raise MissingValue(name)
            return super().__getattr__(name)

    @model_serializer(mode="wrap")
    def _without_default_nulls(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Omit fields that are null by default."""
        fields = type(self).model_fields
        return {key: item for key, item in dump(self).items() if item is not None or fields[key].default is not None}


class ProblemError(ValueError):
    """Raised by validation with the `problems` that checks found."""

    def __init__(self, problems: list[tuple[KeyPath, str]]) -> None:
        super().__init__("; ".join(f"{dotted(path)}: {text}" for path, text in problems))
        self.problems = problems


class RootConfig(BaseConfig):
    """The root of a file. Validation runs the checks of all sections and reports one problem more than is listed."""

    @model_validator(mode="after")
    def _has_no_problems(self) -> Self:
        problems = list(islice(all_problems(self), MAX_PROBLEMS + 1))
        if problems:
            raise ProblemError(problems)
        return self


def all_problems(value: Any, path: KeyPath = ()) -> Problems:
    """Run the checks of `value` and of every section below it.

    Sections may lack fields; a check ends at the first one that is missing. Other errors in checks are bugs, and raise.
    """
    below: Any = ()
    if isinstance(value, BaseConfig):
        for check in value.checks():
            with suppress(MissingValue):
                yield from (((*path, *where), text) for where, text in check())
        below = vars(value).items()
    elif isinstance(value, dict | list):
        below = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in below:
        yield from all_problems(item, (*path, key))


MAX_INT = 2**31 - 1
"""The largest accepted count of steps, rows, codes or layers."""
PositiveInt = Annotated[int, Field(gt=0, le=MAX_INT)]
NonNegativeInt = Annotated[int, Field(ge=0, le=MAX_INT)]
TableRows = Annotated[int, Field(gt=0, le=2**40)]
"""Rows of an embedding table, which several machines may hold together."""
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Rate = Annotated[float, Field(gt=0, le=1)]
"""A share in (0, 1], such as a sampling rate."""
DropRate = Annotated[float, Field(ge=0, lt=1)]
"""A probability in [0, 1), such as a dropout rate."""
MIN_EPSILON = 1e-12
Epsilon = Annotated[float, Field(ge=MIN_EPSILON)]
"""A summand that keeps a division finite in float32."""


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not contain the NUL character")
    return text


Name = Annotated[str, Field(min_length=1), AfterValidator(_without_nul)]


def _one_or_many(value: object) -> object:
    if not isinstance(value, str | list):
        raise ValueError("expected a glob, or a list of globs")
    return [value] if isinstance(value, str) else value


Globs = Annotated[
    list[Name], BeforeValidator(_one_or_many, json_schema_input_type=Name | list[Name]), Field(min_length=1)
]
"""One glob, or a list of them."""
