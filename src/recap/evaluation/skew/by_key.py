"""The values of rows that two sets of rows have in common, found by their keys."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recap.errors import InputError
from recap.evaluation.skew.values import Values, alike, as_texts, values_in
from recap.text import plural, shorten

_SEPARATOR = "\x1f"
_MAX_EXAMPLE = 40
"""Characters of a value that an example shows."""


@dataclass
class Difference:
    """How a column differs in the rows with equal keys."""

    column: str
    rows: int = 0
    """Rows that were compared."""
    differing: int = 0
    """Those whose values differ: numbers as float32, as a model reads them; missing values are equal."""
    largest: float | None = None
    """The largest difference of two numbers; None for text, or without a pair of different numbers."""
    example: tuple[str, str, str] | None = None
    """Key and both values of the first row that differs."""

    @property
    def share(self) -> float:
        """The share of the rows whose values differ; 0 without rows."""
        return self.differing / self.rows if self.rows else 0.0


def keys_of(table: pa.Table, key: Sequence[str], name: str) -> pa.Array:
    """The key of each row as text. `name`: of the files. Raises InputError for nulls, fractions and lists."""
    parts = []
    for column in key:
        values = values_in(table.column(column))
        if values is None or values.lengths is not None or pa.types.is_floating(values.flat.type):
            raise InputError(
                f"--key: column {shorten(repr(column))} of {name} holds {table.schema.field(column).type}; a key is "
                "integers or text"
            )
        if values.flat.null_count:
            raise InputError(f"--key: column {shorten(repr(column))} of {name} has rows without a value")
        parts.append(as_texts(values.flat))
    return pc.binary_join_element_wise(*parts, pa.scalar(_SEPARATOR, pa.large_string()))


def shown(key: str) -> str:
    """A key for a person."""
    return shorten(key.replace(_SEPARATOR, ", "), _MAX_EXAMPLE)


@dataclass
class KeyedRows:
    """Rows whose partners are looked up."""

    table: pa.Table
    key: Sequence[str]
    columns: Sequence[str]
    """Those to compare."""
    name: str
    matches: npt.NDArray[np.int64] = field(init=False)
    """How many partners each row has."""
    differences: dict[str, Difference] = field(init=False)
    not_compared: set[str] = field(default_factory=set)
    """Columns whose types cannot be compared."""

    def __post_init__(self) -> None:
        """Raises InputError if two rows have one key."""
        self._keys = keys_of(self.table, self.key, self.name)
        counted = pc.value_counts(self._keys)
        repeated = pc.greater(counted.field("counts"), 1)
        if repeated.true_count:
            example = counted.filter(repeated)[0]
            raise InputError(
                f"--key: {plural(example['counts'].as_py(), 'row')} of {self.name} have the key "
                f"{shown(example['values'].as_py())}, and {repeated.true_count - 1:,} other keys repeat; add a --key "
                "that tells them apart, such as the id of the request"
            )
        self.matches = np.zeros(self.table.num_rows, np.int64)
        self.differences = {column: Difference(column) for column in self.columns}

    def add(self, table: pa.Table, name: str) -> None:
        """Compare the rows of `table` that have a key in common. Raises InputError if a key has two partners."""
        keys = keys_of(table, self.key, name)
        partners = pc.index_in(keys, value_set=self._keys)
        rows = np.flatnonzero(partners.is_valid().to_numpy(zero_copy_only=False))
        if not len(rows):
            return
        positions = partners.take(pa.array(rows)).to_numpy(zero_copy_only=False)
        np.add.at(self.matches, positions, 1)
        if (self.matches > 1).any():
            key = self._keys[int(np.argmax(self.matches > 1))].as_py()
            raise InputError(
                f"--key: several rows of {name} have the key {shown(key)}; add a --key that tells them apart"
            )
        ours, theirs = self.table.take(pa.array(positions)), table.take(pa.array(rows))
        names = keys.take(pa.array(rows))
        for column, difference in self.differences.items():
            one, other = values_in(ours.column(column)), values_in(theirs.column(column))
            pair = alike(one, other) if one is not None and other is not None else None
            if pair is None:
                self.not_compared.add(column)
                continue
            differs, largest = compare(*pair)
            difference.rows += len(rows)
            difference.differing += int(differs.sum())
            if largest is not None:
                difference.largest = max(difference.largest or 0.0, largest)
            if difference.example is None and differs.any():
                row = int(np.argmax(differs))
                difference.example = (
                    shown(names[row].as_py()),
                    _text(ours.column(column)[row].as_py()),
                    _text(theirs.column(column)[row].as_py()),
                )


def compare(one: Values, other: Values) -> tuple[npt.NDArray[np.bool_], float | None]:
    """Which of N rows differ [N], and the largest difference of two numbers; both are alike."""
    if one.lengths is None or other.lengths is None:
        return _compare(one, other)
    differs = one.lengths != other.lengths
    rows = np.flatnonzero(~differs)
    ours, theirs = (
        Values(flat.filter(pa.array(np.repeat(~differs, lengths))), None)
        for flat, lengths in ((one.flat, one.lengths), (other.flat, other.lengths))
    )
    elements, largest = _compare(ours, theirs)
    owners = np.repeat(rows, one.lengths[rows])
    differs[owners[elements]] = True
    return differs, largest


def _compare(one: Values, other: Values) -> tuple[npt.NDArray[np.bool_], float | None]:
    missing = pc.is_null(one.flat), pc.is_null(other.flat)
    unequal = pc.if_else(pc.or_(*missing), pc.xor(*missing), pc.not_equal(one.flat, other.flat))
    differs: npt.NDArray[np.bool_] = unequal.to_numpy(zero_copy_only=False).astype(np.bool_)
    largest = None
    if one.is_number:
        distance = pc.abs(
            pc.subtract(one.flat.cast(pa.float64(), safe=False), other.flat.cast(pa.float64(), safe=False))
        )
        largest = pc.max(distance.filter(unequal)).as_py()
    return differs, largest


def _text(value: Any) -> str:
    return shorten(repr(value), _MAX_EXAMPLE)
