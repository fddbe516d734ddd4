"""The rows of a log as aggregates read them: times, ids of keys, labels, and the values of which lists are kept."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recap.config.aggregates.spec import AggregatesConfig, TimeConfig
from recap.config.base import dotted
from recap.data.encoding.hashing import ids_of
from recap.data.encoding.kinds import decoded, is_list, is_number, is_text
from recap.data.formats.format import Chunk
from recap.data.formats.location import Location
from recap.data.formats.tables import TableFiles
from recap.data.tools.times import is_date, microseconds_of, times_of
from recap.errors import DataError
from recap.text import shorten, suggest

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_MAX_SECONDS = 2.5e11
"""The end of the year 9891: times beyond are in another unit."""

_MAX_LABEL = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class LogRows:
    """Some rows of a log, B of them."""

    numbers: Integers
    """[B] counted over all files, from 0."""
    times: Integers
    """[B] microseconds since 1970."""
    ids: dict[str, tuple[Integers, npt.NDArray[np.bool_]]]
    """Column of a key → ids [B], and which are missing [B]."""
    labels: dict[str, Floats]
    """[B] each; NaN where missing, or not finite as float32."""
    items: dict[str, pa.Array]
    """[B] each."""

    def before(self, time: int) -> "LogRows":
        """The rows before a time, in microseconds."""
        chosen = self.times < time
        mask = pa.array(chosen)
        return LogRows(
            self.numbers[chosen],
            self.times[chosen],
            {name: (ids[chosen], missing[chosen]) for name, (ids, missing) in self.ids.items()},
            {name: values[chosen] for name, values in self.labels.items()},
            {name: values.filter(mask) for name, values in self.items.items()},
        )


class Log:
    """The files of a log."""

    def __init__(self, files: TableFiles, spec: AggregatesConfig) -> None:
        """Raises DataError for a file without rows or without a column, and for columns that hold lists."""
        self.files, self._spec = files, spec
        self._has_dates: bool | None = None
        self.rows = sum(chunk.rows for chunk in files.chunks())
        self.item_types: dict[str, pa.DataType] = {}
        items = {column for key in spec.keys for column in spec.items(key)}
        for file in files.files_with_rows():
            schema = files.schema(file)
            _check_columns(file, schema.names, spec)
            for name in items:
                kind = decoded(pa.nulls(0, schema.field(name).type)).type
                if is_list(kind):
                    raise DataError(f"{file}: column {name!r}: holds lists, expected one value in each row")
                if not pa.types.is_null(kind):
                    self.item_types.setdefault(name, kind)
        self.item_types = {name: pa.int64() for name in items} | self.item_types

    def read(self, after_rows: Callable[[int], None] = lambda rows: None) -> Iterator[LogRows]:
        """The rows of all files, in order. Raises DataError, which names the file, column and row."""
        first = 0
        for chunk, table in self.files.tables([*self._spec.reads]):
            yield self._rows(first, chunk, table)
            first += chunk.rows
            after_rows(chunk.rows)

    def _rows(self, first: int, chunk: Chunk, table: pa.Table) -> LogRows:
        spec, location = self._spec, chunk.location()
        columns = {name: decoded(table.column(name).combine_chunks()) for name in spec.reads}
        try:
            times = microseconds_in(table.column(spec.time.column), spec.time)
        except DataError as error:
            raise location.error(error.column, error.reason, error.rows) from None
        self._check_dates(columns[spec.time.column], location)
        ids = {}
        for name in dict.fromkeys(column for parts in spec.keys.values() for column in parts):
            values, missing = ids_of(columns[name], name, location)
            ids[name] = values, np.zeros(len(values), bool) if missing is None else missing
        labels = {name: _numbers(columns[name], name, location) for key in spec.keys for name in spec.labels(key)}
        items = {name: _typed(columns[name], name, kind, location) for name, kind in self.item_types.items()}
        return LogRows(first + np.arange(chunk.rows), times, ids, labels, items)

    def _check_dates(self, times: pa.Array, location: Location) -> None:
        """Raise DataError if numbers were read as dates in digits here, and as a count since 1970 elsewhere."""
        if self._spec.time.unit is not None or not is_number(times.type) or not len(times):
            return
        ends = pc.min_max(times).as_py()
        has_dates = is_date(ends["min"]) and is_date(ends["max"])
        if self._has_dates not in (None, has_dates):
            raise location.error(
                self._spec.time.column,
                "some rows look like dates in digits, such as 20260131, and others like a count since 1970; set "
                "time.unit, or write all as dates",
            )
        self._has_dates = has_dates


def _check_columns(file: str, present: list[str], spec: AggregatesConfig) -> None:
    """Raise DataError with a line for each column that the file lacks."""
    lines = [
        f"{file}: has no column {name!r}, named in {', '.join(map(dotted, paths))}. {suggest(name, present)}"
        for name, paths in spec.reads.items()
        if name not in present
    ]
    if lines:
        raise DataError("\n".join(lines))


def microseconds_in(column: pa.ChunkedArray, time: TimeConfig) -> Integers:
    """[rows] times in microseconds since 1970. Raises DataError for values that are missing or no times."""
    if time.unit is None:
        return microseconds_of(column, time.column)
    values = decoded(column.combine_chunks())
    if is_text(values.type):
        values = _from_text(values, time.column)
    if not is_number(values.type):
        raise DataError(f"column {time.column!r}: holds {values.type}, but time.unit is for numbers; remove time.unit")
    column = pa.chunked_array([values])
    numbers, per_second = times_of(column, time.column), _PER_SECOND[time.unit]
    if len(numbers) and np.abs(numbers.astype(np.float64)).max() > _MAX_SECONDS * per_second:
        raise DataError(f"column {time.column!r}: holds times after the year 9891 in {time.unit}; check time.unit")
    if per_second > 1_000_000:
        return (numbers // (per_second // 1_000_000)).astype(np.int64)
    return np.floor(numbers * (1_000_000 // per_second)).astype(np.int64)


def _from_text(texts: pa.Array, name: str) -> pa.Array:
    """The numbers that texts spell. Raises DataError with the first that spells none."""
    for kind in (pa.int64(), pa.float64()):
        with suppress(pa.ArrowInvalid):  # the next kind, or the error below
            return texts.cast(kind)
    row, text = next((row, text) for row, text in enumerate(texts) if text.is_valid and not _is_number(text))
    reason = (
        f"found the text {shorten(str(text))!r}, expected a number, because time.unit is set; "
        "fix or remove the row, or remove time.unit if times are written as text"
    )
    raise DataError(f"column {name!r}: {reason}", [row], name, reason)


def _is_number(text: pa.Scalar) -> bool:
    try:
        return bool(text.cast(pa.float64()).is_valid)
    except pa.ArrowInvalid:
        return False


def _numbers(values: pa.Array, name: str, location: Location) -> Floats:
    if not is_number(values.type):
        raise location.error(name, f"holds {values.type}, expected a label: numbers or booleans")
    numbers: Floats = values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return np.where(np.abs(numbers) <= _MAX_LABEL, numbers, np.nan)


def _typed(values: pa.Array, name: str, kind: pa.DataType, location: Location) -> pa.Array:
    try:
        return values.cast(kind)
    except pa.ArrowException:
        raise location.error(name, f"holds {values.type}, but {kind} in another file; write all files alike") from None
