"""`recap data compare`: reads two sets of files, and compares their columns by key or by distribution."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from recap.data.formats.tables import TableFiles
from recap.data.sample import sampled_chunks, spread_rows
from recap.errors import DataError, InputError
from recap.evaluation.plain import to_plain
from recap.evaluation.skew.by_key import Difference, KeyedRows
from recap.evaluation.skew.distributions import Distribution, distribution
from recap.evaluation.skew.values import alike, values_in
from recap.text import plural, suggest

MAX_ROWS = 200_000
"""Rows of ONE that are looked up in OTHER by default."""
AfterRows = Callable[[int], None]


@dataclass(frozen=True)
class Skew:
    """How OTHER differs from ONE, the largest differences first."""

    rows: tuple[int, int]
    """Rows of ONE and of OTHER that were read; with a key, of OTHER only those that have partners."""
    columns: Sequence[Distribution] | Sequence[Difference]
    only: tuple[Sequence[str], Sequence[str]]
    """Columns that only ONE, or only OTHER, has."""
    not_compared: Sequence[str]
    """Columns of both whose types cannot be compared."""

    @property
    def worst(self) -> float:
        """The largest PSI or, with a key, the largest share of rows that differ; 0 without columns."""
        return max((_size(column) for column in self.columns), default=0.0)

    def above(self, limit: float) -> list[str]:
        """The columns whose PSI, or share of rows that differ, exceeds `limit`."""
        return [column.column for column in self.columns if _size(column) > limit]

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        columns = [
            asdict(column) | ({"share": column.share} if isinstance(column, Difference) else {})
            for column in self.columns
        ]
        content: dict[str, Any] = to_plain(asdict(self) | {"columns": columns})
        return content


def _size(column: Distribution | Difference) -> float:
    return column.share if isinstance(column, Difference) else column.psi


def compare_files(
    one: str,
    other: str,
    key: Sequence[str] = (),
    columns: Sequence[str] = (),
    schema_path: str | None = None,
    *,
    max_rows: int = MAX_ROWS,
    after_rows: AfterRows = lambda rows: None,
) -> Skew:
    """Compare the columns that the files of both globs have.

    Without `key`: the distributions in at most 50,000 rows of each, spread over its files. With `key`: the values of
    the first `max_rows` rows of `one` with those of the rows of `other` that have the same key. `columns`: those to
    compare, by default all. Raises DataError for files that cannot be read, InputError for columns that are missing and
    keys that are not unique.
    """
    sets = [TableFiles.open([inputs], schema_path) for inputs in (one, other)]
    names = [_names(files) for files in sets]
    for column in (*key, *columns):
        for inputs, known in zip((one, other), names, strict=True):
            if column not in known:
                option = "--key" if column in key else "--column"
                raise InputError(f"{option}: {inputs} has no column {column!r}. {suggest(column, known)}")
    common = [name for name in names[0] if name in names[1] and name not in key and (not columns or name in columns)]
    if not common:
        besides = " besides the key" if key else ""
        raise InputError(f"{one} and {other} have no column in common{besides}; nothing to compare")
    only = (_without(names[0], names[1]), _without(names[1], names[0]))
    if key:
        return _by_key(sets, (one, other), key, common, only, max_rows, after_rows)
    tables = [_sample(files, common, after_rows) for files in sets]
    compared, not_compared = list[Distribution](), list[str]()
    for name in common:
        values = [values_in(table.column(name)) for table in tables]
        pair = alike(values[0], values[1]) if values[0] is not None and values[1] is not None else None
        if pair is None:
            not_compared.append(name)
        else:
            compared.append(distribution(name, *pair))
    compared.sort(key=lambda column: -column.psi)
    return Skew((tables[0].num_rows, tables[1].num_rows), compared, only, not_compared)


def _by_key(
    sets: Sequence[TableFiles],
    inputs: tuple[str, str],
    key: Sequence[str],
    common: Sequence[str],
    only: tuple[Sequence[str], Sequence[str]],
    max_rows: int,
    after_rows: AfterRows,
) -> Skew:
    parts, count = list[pa.Table](), 0
    for _, table in sets[0].tables([*key, *common]):
        parts.append(table.slice(0, max_rows - count))
        count += parts[-1].num_rows
        after_rows(parts[-1].num_rows)
        if count >= max_rows:
            break
    rows = KeyedRows(_joined(parts, inputs[0]), key, common, inputs[0])
    for _, table in sets[1].tables([*key, *common]):
        rows.add(table, inputs[1])
        after_rows(table.num_rows)
    partners = int(rows.matches.sum())
    if not partners:
        raise InputError(
            f"--key: none of the {plural(count, 'row')} of {inputs[0]} has a row with the same "
            f"{', '.join(key)} in {inputs[1]}; compare columns of the same ids, or leave --key out"
        )
    compared = [item for name, item in rows.differences.items() if name not in rows.not_compared]
    compared.sort(key=lambda column: (-column.share, -(column.largest or 0.0)))
    return Skew((count, partners), compared, only, sorted(rows.not_compared))


def _names(files: TableFiles) -> list[str]:
    """The columns that all files have."""
    schemas = [files.schema(file).names for file in files.files_with_rows()]
    return [name for name in schemas[0] if all(name in schema for schema in schemas)]


def _without(names: Sequence[str], others: Sequence[str]) -> list[str]:
    return [name for name in names if name not in others]


def _sample(files: TableFiles, columns: Sequence[str], after_rows: AfterRows) -> pa.Table:
    parts = []
    for chunk, rows in sampled_chunks(files.chunks()):
        ((_, table),) = files.tables(columns, [chunk])
        parts.append(spread_rows(table, max(rows, 1)))
        after_rows(parts[-1].num_rows)
    return _joined(parts, files.files[0])


def _joined(parts: Sequence[pa.Table], name: str) -> pa.Table:
    """The rows of all parts. Raises DataError if a column has types that do not agree."""
    try:
        return pa.concat_tables(parts, promote_options="permissive")
    except pa.ArrowException as error:
        raise DataError(
            f"{name}: a column has different types in its files ({error}); compare them one by one"
        ) from None
