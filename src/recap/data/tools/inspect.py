"""`recap data inspect`: describes the columns of files, in one pass and in bounded memory."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from recap.data.formats.tables import TableFiles
from recap.errors import DataError

MAX_DISTINCT = 100_000
"""Distinct values are counted per column up to this number."""


@dataclass
class ColumnReport:
    """Statistics of one column."""

    name: str
    type: str
    missing: int = 0
    """Rows without a value."""
    not_finite: int = 0
    """Values that are NaN or infinite."""
    low: Any = None
    high: Any = None
    distinct: int | None = 0
    """Distinct values; None for more than `MAX_DISTINCT`, and for lists."""
    positives: int | None = None
    """The number of ones if all values are 0 or 1, else None."""
    _values: set[Any] = field(default_factory=set, repr=False)

    def add(self, column: pa.ChunkedArray) -> None:
        """Add the next rows."""
        self.missing += column.null_count
        values = column.combine_chunks().drop_null()
        values = values if isinstance(values, pa.Array) else pa.concat_arrays(values.chunks)
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        if pa.types.is_nested(values.type):
            self.distinct = None
            values = values.flatten().drop_null() if hasattr(values.type, "value_type") else pa.array([])
        elif self.distinct is not None:
            self._values.update(values.unique().to_pylist())
            self.distinct = len(self._values) if len(self._values) <= MAX_DISTINCT else None
            self._values = self._values if self.distinct is not None else set()
        if pa.types.is_floating(values.type):
            finite = pc.is_finite(values)
            self.not_finite += len(values) - pc.sum(finite).as_py() if len(values) else 0
            values = values.filter(finite)
        if len(values) and not pa.types.is_nested(values.type):
            self._update_range(values)
        if self.distinct is not None and self._values and self._values <= {0, 1}:
            self.positives = (self.positives or 0) + int(pc.sum(values.cast(pa.int64(), safe=False)).as_py() or 0)
        else:
            self.positives = None

    def _update_range(self, values: pa.Array) -> None:
        if pa.types.is_boolean(values.type):
            values = values.cast(pa.int8())
        try:
            low, high = (bound.as_py() for bound in pc.min_max(values).values())
        except pa.ArrowNotImplementedError:  # the type has no order
            return
        self.low = low if self.low is None else min(self.low, low)
        self.high = high if self.high is None else max(self.high, high)


@dataclass(frozen=True)
class Inspection:
    """The columns of some files."""

    files: int
    format: str
    rows: int
    columns: list[ColumnReport]

    def as_json(self) -> dict[str, Any]:
        """JSON values; those that JSON has no type for become text."""
        columns = [
            {key: _as_json(value) for key, value in asdict(column).items() if not key.startswith("_")}
            for column in self.columns
        ]
        return {"files": self.files, "format": self.format, "rows": self.rows, "columns": columns}


def _as_json(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value if isinstance(value, int | str) or value is None else str(value)


def inspect_files(
    inputs: Sequence[str], schema_path: str | None = None, after_rows: Callable[[int], None] = lambda rows: None
) -> Inspection:
    """Read every row of the files that `inputs` match. Raises DataError for files that cannot be read."""
    files = TableFiles.open(inputs, schema_path)
    first = files.files[0]
    schema = files.schema(first)
    columns = [ColumnReport(field.name, str(field.type)) for field in schema]
    rows = 0
    for file, tables in files.tables_by_file(schema.names):
        names = files.schema(file).names
        if sorted(names) != sorted(schema.names):
            different = sorted(set(names) ^ set(schema.names)) or ["the number of columns of one name"]
            raise DataError(
                f"{file}: its columns differ from those of {first}: {', '.join(different)}; inspect them apart"
            )
        for _, table in tables:
            for report in columns:
                report.add(table.column(report.name))
            rows += table.num_rows
            after_rows(table.num_rows)
    return Inspection(len(files.files), files.format.name, rows, columns)
