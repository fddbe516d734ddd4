"""`recap data vocabulary`: counts the values of columns, for `vocabulary` under `features`."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recap.data.encoding.columns import as_one_array
from recap.data.encoding.kinds import decoded, integers_or_texts, is_list, is_text
from recap.data.formats.location import Location
from recap.data.formats.tables import TableFiles
from recap.errors import DataError, InputError
from recap.storage import atomic_write, failure
from recap.text import suggest

_VALUES_AT_ONCE = 1 << 20
"""Values that are counted together, from as many chunks as it takes."""


def count_values(
    inputs: Sequence[str],
    columns: Sequence[str],
    schema_path: str | None = None,
    *,
    min_count: int = 1,
    after_rows: Callable[[int], None] = lambda rows: None,
) -> dict[str, pa.Table]:
    """For each column, its distinct values (`value`) and their counts (`count`), the most frequent first.

    Ties are in order of value. Of a list column, the values of all lists are counted. A column of integers gives int64,
    and any other gives strings; text formats store no types, so all their columns give strings. Values that occur fewer
    than `min_count` times are left out; they share the unknown bucket with null. Raises DataError if a column is
    missing or holds neither strings nor integers.
    """
    untyped = TableFiles.open(inputs, schema_path)
    counters = {column: _Counter() for column in columns}
    files = TableFiles.open(inputs, schema_path, _text_types(untyped, columns))
    for file, tables in files.tables_by_file(list(columns)):
        names = files.schema(file).names
        for column in columns:
            if column not in names:
                raise DataError(f"{file}: column {column!r}: is missing. {suggest(column, names)}")
        for chunk, table in tables:
            for column, counter in counters.items():
                counter.add(_values(table.column(column), column, Location(file, chunk.first_row)))
            after_rows(table.num_rows)
    counted = {column: counter.result(min_count) for column, counter in counters.items()}
    for column, table in counted.items():
        if not table.num_rows:
            raise DataError(f"{files.files[0]}: column {column!r}: no value occurs {min_count:,} times or more")
    return counted


def _text_types(files: TableFiles, columns: Sequence[str]) -> Mapping[str, pa.DataType]:
    """The types to read the columns as, in formats that store none: text, or lists of text."""
    types: dict[str, pa.DataType] = {}
    for file in files.files:
        for field in files.schema(file):
            if field.name in columns and types.get(field.name, pa.string()) == pa.string():
                types[field.name] = pa.list_(pa.string()) if is_list(field.type) else pa.string()
    return types


def _values(column: pa.ChunkedArray, name: str, location: Location) -> pa.Array:
    """The values of some rows, int64 or large_string. Raises DataError for other types."""
    values = decoded(as_one_array(column))
    rows = np.arange(len(values))
    while is_list(values.type):
        rows = np.repeat(rows, pc.list_value_length(values).fill_null(0).to_numpy(zero_copy_only=False))
        values = decoded(values.flatten())
    values = integers_or_texts(values, name, location, rows)
    return values if pa.types.is_integer(values.type) else values.cast(pa.large_string())


class _Counter:
    """Counts values that arrive in many small arrays."""

    def __init__(self) -> None:
        self._waiting: list[pa.Array] = []
        self._size = 0  # of `_waiting`, in values
        self._counts: dict[pa.DataType, pa.Table] = {}

    def add(self, values: pa.Array) -> None:
        self._waiting.append(values)
        self._size += len(values)
        if self._size > max(_VALUES_AT_ONCE, *(table.num_rows for table in self._counts.values()), 0):
            self._count()

    def _count(self) -> None:
        for kind in {values.type for values in self._waiting}:
            arrays = [values for values in self._waiting if values.type == kind]
            counted = pc.value_counts(pa.chunked_array(arrays).drop_null())
            table = pa.table({"value": counted.field("values"), "count": counted.field("counts")})
            self._counts[kind] = _sum([self._counts[kind], table]) if kind in self._counts else table
        self._waiting, self._size = [], 0

    def result(self, min_count: int) -> pa.Table:
        """The counts of all values; if some are text, integers count as their text."""
        self._count()
        tables = [table for table in self._counts.values() if table.num_rows]
        if any(is_text(table.schema.field("value").type) for table in tables) or not tables:
            text = pa.schema({"value": pa.large_string(), "count": pa.int64()})
            tables = [table.cast(text) for table in tables] or [text.empty_table()]
        table = _sum(tables)
        frequent = table.filter(pc.greater_equal(table.column("count"), min_count))
        frequent = frequent.sort_by([("count", "descending"), ("value", "ascending")])
        value = frequent.column("value")
        return frequent.set_column(0, "value", value.cast(pa.string()) if is_text(value.type) else value)


def _sum(tables: Sequence[pa.Table]) -> pa.Table:
    counted = pa.concat_tables(tables).group_by("value").aggregate([("count", "sum")])
    return counted.rename_columns(["value", "count"])


def write_table(table: pa.Table, path: Path) -> None:
    """Write a table as Parquet, atomically. Raises InputError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            pq.write_table(table, temporary)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({failure(error)})") from None
