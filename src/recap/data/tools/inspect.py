"""`recap data inspect`: describes the columns of files, in one pass and in bounded memory."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from recap.data.encoding.columns import as_one_array
from recap.data.encoding.kinds import decoded
from recap.data.formats.format import check_unique
from recap.data.formats.location import Location
from recap.data.formats.tables import TableFiles
from recap.errors import DataError

MAX_DISTINCT = 100_000
"""Distinct values are counted per column up to this number."""
MAX_SHOWN = 60
"""Characters of a value that are shown."""
_MAX_BYTES = 64
"""Longer values are counted by their hashes."""


@dataclass
class ColumnReport:
    """Statistics of one column."""

    name: str
    type: str
    """The types of the column in all files, without `null` if there are others."""
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
        values = _plain(decoded(as_one_array(column))).drop_null()
        while pa.types.is_nested(values.type):
            self.distinct = None
            lists = hasattr(values.type, "value_type") and not pa.types.is_map(values.type)
            values = _plain(decoded(values).flatten()).drop_null() if lists else pa.nulls(0)
        if self.distinct is not None:
            self._values.update(map(_short, values.unique().to_pylist()))
            self.distinct = len(self._values) if len(self._values) <= MAX_DISTINCT else None
            self._values = self._values if self.distinct is not None else set()
        if pa.types.is_floating(values.type):
            finite = pc.is_finite(values)
            self.not_finite += len(values) - pc.sum(finite).as_py() if len(values) else 0
            values = values.filter(finite)
        if len(values):
            low, high = (_shown(bound.as_py()) for bound in pc.min_max(values).values())
            self.low = low if self.low is None else min(self.low, low)
            self.high = high if self.high is None else max(self.high, high)
        if self.distinct is not None and self._values and self._values <= {0, 1}:
            self.positives = (self.positives or 0) + int(pc.sum(values.cast(pa.int64(), safe=False)).as_py() or 0)
        else:
            self.positives = None


def _plain(values: pa.Array) -> pa.Array:
    """Values as a type that Arrow can count and Python can hold: numbers, bytes (also for text) or text (for times)."""
    if isinstance(values, pa.ExtensionArray):
        return _plain(values.storage)
    kind = values.type
    if pa.types.is_dictionary(kind):
        return _plain(values.dictionary_decode())
    if pa.types.is_run_end_encoded(kind):
        return _plain(pc.run_end_decode(values))
    if pa.types.is_float16(kind):
        return values.cast(pa.float32())
    if pa.types.is_boolean(kind):
        return values.cast(pa.int8())
    if pa.types.is_decimal(kind):
        return values.cast(pa.float64(), safe=False)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_nested(kind) or pa.types.is_null(kind):
        return values
    if pa.types.is_timestamp(kind):  # without its time zone, which this machine may not know
        values = values.cast(pa.timestamp(kind.unit))
    if pa.types.is_temporal(kind) and not pa.types.is_interval(kind):
        return values.cast(pa.string())  # Python's times have no nanoseconds
    try:
        return values.cast(pa.large_binary())  # the bytes of text may not be UTF-8
    except pa.ArrowNotImplementedError:  # a rare type, such as an interval
        return pa.nulls(0)


def _short(value: Any) -> Any:
    """A value, or the hash of long bytes, so that distinct values take little memory."""
    return sha256(value).digest() if isinstance(value, bytes) and len(value) > _MAX_BYTES else value


def _shown(value: Any) -> Any:
    """A number, or the beginning of a text."""
    text = value.decode(errors="replace") if isinstance(value, bytes) else value
    return text if not isinstance(text, str) or len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


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
    """Read every row of the files that `inputs` match. Raises DataError for files that cannot be read or disagree."""
    files = TableFiles.open(inputs, schema_path)
    columns = [ColumnReport(name, kind) for name, kind in _columns(files).items()]
    rows = 0
    for _, tables in files.tables_by_file([report.name for report in columns]):
        for _, table in tables:
            for report in columns:
                report.add(table.column(report.name))
            rows += table.num_rows
            after_rows(table.num_rows)
    return Inspection(len(files.files), files.format_names, rows, columns)


def _columns(files: TableFiles) -> dict[str, str]:
    """Name of a column → its types in all files. Raises DataError for files of other columns, or of unlike types."""
    first, *others = files.files_with_rows()
    schema = files.schema(first)
    check_unique(schema, schema.names, first)
    types = {name: {str(kind): kind} for name, kind in zip(schema.names, schema.types, strict=True)}
    for file in others:
        other = files.schema(file)
        if sorted(other.names) != sorted(schema.names):
            different = sorted(set(other.names) ^ set(schema.names)) or ["the number of columns of one name"]
            raise DataError(
                f"{file}: its columns differ from those of {first}: {', '.join(different)}; inspect them apart"
            )
        for name, kind in zip(other.names, other.types, strict=True):
            known = types[name]
            if len({_kind(type_) for type_ in [kind, *known.values()]} - {"null"}) > 1:
                text = f"holds {kind}, but {' or '.join(known)} in other files; inspect them apart"
                raise Location(file).error(name, text)
            known.setdefault(str(kind), kind)
    return {name: " or ".join([kind for kind in kinds if kind != "null"] or ["null"]) for name, kinds in types.items()}


def _kind(kind: pa.DataType) -> str:
    """Equal for types whose values can be compared."""
    plain = _plain(pa.nulls(0, kind)).type
    if pa.types.is_nested(plain):
        return f"lists of {_kind(plain.value_type)}" if hasattr(plain, "value_type") else str(plain)
    return "numbers" if pa.types.is_integer(plain) or pa.types.is_floating(plain) else str(plain)
