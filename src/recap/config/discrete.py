"""Discrete columns: how values become codes, the indices into an embedding table, and which columns share one."""

from difflib import get_close_matches
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Discriminator, Field, Tag

from recap.config.base import BaseConfig, Check, Name, NonNegativeInt, PositiveInt, Problems, TableRows


class ListElement(BaseConfig):
    """One element of a list column."""

    column: Name
    """The list column in the data."""
    index: NonNegativeInt
    """Index of the element, from 0."""


def element_problems(of: ListElement | None, length: int) -> Problems:
    """An element of a list is a single value."""
    if of is not None and length > 1:
        yield ("length",), f"must be 1 for an element of a list, found {length}; remove length or of"


class IntegerSpace(BaseConfig):
    """Integer codes 0 … size - 1; null and all other codes share one bucket for unknown values."""

    size: TableRows
    """Number of codes."""

    @property
    def codes(self) -> int:
        """Codes per value."""
        return 1


class VocabularySpace(BaseConfig):
    """Strings or integers from a vocabulary; null and all other values share one bucket for unknown values."""

    vocabulary: Name
    """Parquet file, or a glob of them, whose first column lists the known strings or integers, each once."""
    row: Name | None = None
    """Column of integers that order the values, such as row numbers of a pretrained table. Optional; default: file
    order."""

    @property
    def codes(self) -> int:
        """Codes per value."""
        return 1


class HashConfig(BaseConfig):
    """Independent hashes of a value, each of which selects a row of the table; the embedding is the sum of these rows.

    With two hashes, hardly any two values share all rows (Svenstrup et al., NeurIPS 2017, without their weights)."""

    buckets: TableRows
    """Rows of the table, not counting the one for null."""
    hashes: Annotated[PositiveInt, Field(le=8)] = 2
    """Number of hashes, and so of rows per value."""
    seed: NonNegativeInt = 0
    """Seed of the hash functions."""


class HashSpace(BaseConfig):
    """Any integers or strings, hashed; null has its own bucket."""

    hash: HashConfig
    """Size of the table and number of hashes."""

    @property
    def codes(self) -> int:
        """Codes per value."""
        return self.hash.hashes


class ZeroCollisionConfig(BaseConfig):
    """Ids that have rows of their own while they are frequent; all others share the row for unknown values.

    In training, ids that occur take free rows or those of ids that the policy values least; a row that changes hands
    starts anew."""

    rows: TableRows
    """Rows of the table, not counting the one for unknown values: the most ids that are known at a time."""
    evict_every: PositiveInt = 100
    """Steps between two rounds, in which the ids since the last one may take rows."""
    policy: Literal["lfu", "lru", "distance_lfu"] = "distance_lfu"
    """Which id loses its row: `lfu`, the one that occurred least since it has one; `lru`, the one whose last round is
    longest ago; `distance_lfu`, the one with the fewest occurrences divided by the rounds since the last."""
    admit_after: PositiveInt = 1
    """Occurrences of an id, counted in the rounds so far, before it may take a row. Above 1, a sketch of fixed size
    counts the ids without rows; it may count too many, and forgets what is long past."""
    evict_after: PositiveInt | None = None
    """Steps without an occurrence after which an id loses its row, rounded up to rounds. Optional; default: ids lose
    their rows only to others."""
    parts: Annotated[PositiveInt, Field(le=1024)] | None = None
    """Parts of the table, over which a hash spreads the ids, and in which they compete for rows. A rank keeps the ids
    of whole parts. Optional; default: one for each 65,536 rows, at most 1024."""

    @property
    def number_of_parts(self) -> int:
        """`parts`, or its default."""
        return self.parts or min(max(self.rows >> 16, 1), 1024)


class ZeroCollisionSpace(BaseConfig):
    """Any integers or strings, of which frequent ones have rows of their own; null and all others share one."""

    zero_collision: ZeroCollisionConfig
    """Number of rows and which ids have them."""

    @property
    def codes(self) -> int:
        """Codes per value."""
        return 1


class SharedTable(BaseConfig):
    """Values that share the codes and the embedding table of a discrete feature."""

    table: Name
    """The discrete feature that owns the table."""


class IntegerCodes(IntegerSpace):
    """A discrete column of integer codes 0 … size - 1; null and all other codes share one bucket for unknown values."""

    length: PositiveInt = 1
    """Codes per row, each with its own embedding; above 1 the column is a list of fixed size."""
    of: ListElement | None = None
    """The list element to read, for a feature without a column of its own. Optional; default: the column of its
    name."""

    def checks(self) -> tuple[Check, ...]:
        return (lambda: element_problems(self.of, self.length),)


class Vocabulary(VocabularySpace):
    """A discrete column of strings or integers from a vocabulary; null and all other values share one bucket for
    unknown values."""

    length: PositiveInt = 1
    """Values per row, each with its own embedding; above 1 the column is a list of fixed size."""


class HashedValues(HashSpace):
    """A discrete column of any integers or strings, hashed; null has its own bucket."""

    length: PositiveInt = 1
    """Values per row, each with its own embedding; above 1 the column is a list of fixed size."""
    of: ListElement | None = None
    """The list element to read, for a feature without a column of its own. Optional; default: the column of its
    name."""

    def checks(self) -> tuple[Check, ...]:
        return (lambda: element_problems(self.of, self.length),)


class ZeroCollisionValues(ZeroCollisionSpace):
    """A discrete column of any integers or strings, of which frequent ones have rows of their own; null and all others
    share one."""

    length: PositiveInt = 1
    """Values per row, each with its own embedding; above 1 the column is a list of fixed size."""
    of: ListElement | None = None
    """The list element to read, for a feature without a column of its own. Optional; default: the column of its
    name."""

    def checks(self) -> tuple[Check, ...]:
        return (lambda: element_problems(self.of, self.length),)


class SharedValues(SharedTable):
    """A discrete column that shares the codes and the embedding table of another."""

    length: PositiveInt = 1
    """Values per row, each with its own embedding; above 1 the column is a list of fixed size."""
    of: ListElement | None = None
    """The list element to read, for a feature without a column of its own. Optional; default: the column of its
    name."""

    def checks(self) -> tuple[Check, ...]:
        return (lambda: element_problems(self.of, self.length),)


CodeSpace: TypeAlias = IntegerSpace | VocabularySpace | HashSpace | ZeroCollisionSpace
SharedCodes: TypeAlias = CodeSpace | SharedTable
"""Own codes, or those of another feature."""

KEYS = {
    "size": "integer codes",
    "vocabulary": "a vocabulary",
    "hash": "a hash",
    "zero_collision": "a zero-collision hash",
    "table": "a shared table",
}
"""The key that distinguishes a kind of code space → the name of the kind."""


def kind_of(value: Any) -> str | None:
    """The name of the kind of a code space; None for other values."""
    classes = {
        IntegerSpace: "size",
        VocabularySpace: "vocabulary",
        HashSpace: "hash",
        ZeroCollisionSpace: "zero_collision",
        SharedTable: "table",
    }
    return next((KEYS[key] for space, key in classes.items() if isinstance(value, space)), None)


def stated_kinds(value: dict[Any, Any]) -> list[str]:
    """The kinds whose key is in a mapping, misspelt or not."""
    keys = [str(key) for key in value if key not in ("length", "of", "column")]
    return [kind for key, kind in KEYS.items() if get_close_matches(key, keys)]


def code_kind(value: Any) -> str | None:
    """Discriminator of `Discrete`: the kind of a value; None if it has the keys of none or several."""
    if not isinstance(value, dict):
        return kind_of(value) or "integer codes"  # any kind reports that a scalar is not a mapping
    kinds = stated_kinds(value)
    return kinds[0] if len(kinds) == 1 else None


ONE_OF = "needs exactly one of size, vocabulary, hash, zero_collision and table"

Discrete = Annotated[
    Annotated[IntegerCodes, Tag("integer codes")]
    | Annotated[Vocabulary, Tag("a vocabulary")]
    | Annotated[HashedValues, Tag("a hash")]
    | Annotated[ZeroCollisionValues, Tag("a zero-collision hash")]
    | Annotated[SharedValues, Tag("a shared table")],
    Discriminator(code_kind, custom_error_type="one_of", custom_error_message=ONE_OF),
]
