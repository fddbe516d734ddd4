"""Discrete columns: what makes codes, which are rows of an embedding table, of their values, and whose table it is."""

from difflib import get_close_matches
from typing import Annotated, Any, TypeAlias

from pydantic import Discriminator, Field, Tag

from recap.config.base import BaseConfig, Check, Name, NonNegativeInt, PositiveInt, Problems


class Position(BaseConfig):
    """One value of a list column."""

    column: Name
    """The list column in the data."""
    index: NonNegativeInt
    """Which of its values, counted from 0."""


def is_one_value(of: Position | None, length: int) -> Problems:
    """One value of a list, and many."""
    if of is not None and length > 1:
        yield ("length",), f"{length} values cannot be one of {of.column!r}; leave length or of out"


class IntegerSpace(BaseConfig):
    """Integer codes 0 … size - 1; null and other codes share one unknown bucket."""

    size: PositiveInt
    """Number of codes."""

    @property
    def codes(self) -> int:
        """Codes that one value stands for."""
        return 1


class VocabularySpace(BaseConfig):
    """Strings or integers; those missing from the vocabulary share one unknown bucket with null."""

    vocabulary: Name
    """Parquet file, or a glob of such files, whose first column lists the known strings or integers, each once."""
    row: Name | None = None
    """Their column of whole numbers by which the values are put in order, such as the rows of a table elsewhere; none
    given: they stay as they stand."""

    @property
    def codes(self) -> int:
        """Codes that one value stands for."""
        return 1


class HashConfig(BaseConfig):
    """Independent hashes of a value, each of which names a row of one table; the embedding is the sum of these rows.

    With two, hardly any two values share all their rows (Svenstrup et al., NeurIPS 2017, without their weights).
    """

    buckets: PositiveInt
    """Rows of the table, beside the one for null."""
    hashes: Annotated[PositiveInt, Field(le=8)] = 2
    """How many rows a value has."""
    seed: NonNegativeInt = 0
    """Which hashes, of many: another seed lets other values meet."""


class HashSpace(BaseConfig):
    """Integers or strings of any value, hashed; null is an unknown bucket of its own."""

    hash: HashConfig
    """Into how many rows, and how often."""

    @property
    def codes(self) -> int:
        """Codes that one value stands for."""
        return self.hash.hashes


class SharedTable(BaseConfig):
    """Values of the same kind as those of a discrete feature, whose codes and embedding table they use."""

    table: Name
    """The discrete feature that has the table."""


class IntegerCodes(IntegerSpace):
    """A discrete column of integer codes 0 … size - 1; null and other codes share one unknown bucket."""

    length: PositiveInt = 1
    """Codes a row holds, each with its own embedding; above 1 the column is a fixed-size list."""
    of: Position | None = None
    """Where the code stands, if it is no column of its own but one of a list."""

    def checks(self) -> tuple[Check, ...]:
        """One code of a list, and many."""
        return (lambda: is_one_value(self.of, self.length),)


class Vocabulary(VocabularySpace):
    """A discrete column of strings; those missing from the vocabulary share one unknown bucket with null."""

    length: PositiveInt = 1
    """Strings a row holds, each with its own embedding; above 1 the column is a fixed-size list."""


class HashedValues(HashSpace):
    """A discrete column of integers or strings of any value, hashed; null is an unknown bucket of its own."""

    length: PositiveInt = 1
    """Values a row holds, each with its own embedding; above 1 the column is a fixed-size list."""
    of: Position | None = None
    """Where the value stands, if it is no column of its own but one of a list."""

    def checks(self) -> tuple[Check, ...]:
        """One value of a list, and many."""
        return (lambda: is_one_value(self.of, self.length),)


class SharedValues(SharedTable):
    """A discrete column of the same kind of values as another, whose codes and embedding table it uses."""

    length: PositiveInt = 1
    """Values a row holds, each with its own embedding; above 1 the column is a fixed-size list."""
    of: Position | None = None
    """Where the value stands, if it is no column of its own but one of a list."""

    def checks(self) -> tuple[Check, ...]:
        """One value of a list, and many."""
        return (lambda: is_one_value(self.of, self.length),)


CodeSpace: TypeAlias = IntegerSpace | VocabularySpace | HashSpace
SharedCodes: TypeAlias = CodeSpace | SharedTable
"""What has codes: of its own, or those of another."""

KEYS = {"size": "integer codes", "vocabulary": "a vocabulary", "hash": "a hash", "table": "a shared table"}
"""The one key that only a kind of code space has, and how the kind is called."""


def kind_of(value: Any) -> str | None:
    """How the kind of a code space is called."""
    classes = {IntegerSpace: "size", VocabularySpace: "vocabulary", HashSpace: "hash", SharedTable: "table"}
    return next((KEYS[key] for space, key in classes.items() if isinstance(value, space)), None)


def kinds_meant(value: dict[Any, Any]) -> list[str]:
    """Which kinds are meant, by the one key that only each has, misspelt or not."""
    keys = [str(key) for key in value if key not in ("length", "of", "column")]
    return [kind for key, kind in KEYS.items() if get_close_matches(key, keys)]


def code_kind(value: Any) -> str | None:
    """The one kind of code space that a value means; none if it means none or several."""
    if not isinstance(value, dict):
        return kind_of(value) or "integer codes"
    kinds = kinds_meant(value)
    return kinds[0] if len(kinds) == 1 else None


ONE_OF = "exactly one of size, vocabulary, hash and table must be set"

Discrete = Annotated[
    Annotated[IntegerCodes, Tag("integer codes")]
    | Annotated[Vocabulary, Tag("a vocabulary")]
    | Annotated[HashedValues, Tag("a hash")]
    | Annotated[SharedValues, Tag("a shared table")],
    Discriminator(code_kind, custom_error_type="one_of", custom_error_message=ONE_OF),
]
