"""`recap data vocabulary`: counts the strings of a column, for `features.discrete.NAME.vocabulary`."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recap.data.formats.tables import TableFiles
from recap.errors import DataError, InputError
from recap.storage import atomic_write
from recap.text import suggest


def count_values(
    inputs: Sequence[str],
    column: str,
    schema_path: str | None = None,
    *,
    min_count: int = 1,
    after_rows: Callable[[int], None] = lambda rows: None,
) -> pa.Table:
    """The strings of a column (`value`) and their counts (`count`), the most frequent first, ties in order of string.

    Strings that occur fewer than `min_count` times are left out; they share the unknown bucket with null. Raises
    DataError if the column is missing or does not hold strings.
    """
    files = TableFiles.open(inputs, schema_path, {column: pa.string()})
    counts: Counter[str] = Counter()
    for file, tables in files.tables_by_file([column]):
        names = files.schema(file).names
        if column not in names:
            raise DataError(f"{file}: column {column!r}: is missing. {suggest(column, names)}")
        for _, table in tables:
            counts.update(_counts(table.column(column), f"{file}: column {column!r}"))
            after_rows(table.num_rows)
    frequent = sorted(((-count, value) for value, count in counts.items() if count >= min_count))
    if not frequent:
        raise DataError(f"{files.files[0]}: column {column!r}: no string occurs {min_count:,} times or more")
    return pa.table({"value": [value for _, value in frequent], "count": [-count for count, _ in frequent]})


def _counts(column: pa.ChunkedArray, where: str) -> dict[str, int]:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    while pa.types.is_nested(column.type) and hasattr(column.type, "value_type"):
        column = pc.list_flatten(column)
    try:
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            column = column.cast(pa.string()) if pa.types.is_binary(column.type) else column.cast(pa.null())
    except pa.ArrowException:
        raise DataError(f"{where}: holds {column.type}, expected strings") from None
    counted = pc.value_counts(column.drop_null())
    return dict(zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True))


def write_table(table: pa.Table, path: Path) -> None:
    """Write a table as Parquet, atomically. Raises InputError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            pq.write_table(table, temporary)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None
