"""`recap data vocabulary`: the strings of a column, counted; what `features.discrete.NAME.vocabulary` names."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recap.data.formats.files import find_files
from recap.data.formats.open import chunks_of, guess_source, open_format
from recap.errors import DataError, InputError
from recap.text import suggest


def count_values(
    inputs: Sequence[str],
    column: str,
    schema_path: str | None = None,
    *,
    min_count: int = 1,
    after_rows: Callable[[int], None] = lambda rows: None,
) -> pa.Table:
    """The strings of a column with their counts, the most frequent first, those of one count by name.

    Strings of fewer than `min_count` rows are left out: they share the unknown bucket with null. Raises DataError where
    the column is missing or holds no strings.
    """
    files = find_files(inputs)
    format_ = open_format(guess_source(inputs, schema_path), {column: pa.string()}, files)
    counts: Counter[str] = Counter()
    for file in files:
        schema = format_.schema(file)
        if column not in schema.names:
            raise DataError(f"{file}: column {column!r}: is missing. {suggest(column, schema.names)}")
        for chunk in chunks_of(format_, file):
            table = format_.read(file, chunk.number, [column])
            counts.update(_counts(table.column(column), f"{file}: column {column!r}"))
            after_rows(table.num_rows)
    kept = sorted(((-count, value) for value, count in counts.items() if count >= min_count))
    if not kept:
        raise DataError(f"{files[0]}: column {column!r}: no string stands in {min_count:,} rows or more")
    return pa.table({"value": [value for _, value in kept], "count": [-count for count, _ in kept]})


def _counts(column: pa.ChunkedArray, where: str) -> dict[str, int]:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    while pa.types.is_nested(column.type) and hasattr(column.type, "value_type"):
        column = pc.list_flatten(column)
    try:
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            column = column.cast(pa.string()) if pa.types.is_binary(column.type) else column.cast(pa.null())
    except pa.ArrowException:
        raise DataError(f"{where}: holds {column.type}; a vocabulary is of strings") from None
    counted = pc.value_counts(column.drop_null())
    return dict(zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True))


def write_table(table: pa.Table, path: Path) -> None:
    """Write a table as Parquet, whole or not at all. Raises InputError."""
    temporary = path.with_name(path.name + ".unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, temporary)
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None
    finally:
        temporary.unlink(missing_ok=True)
