"""Times in the columns of data files: dates, timestamps, text, and numbers of an epoch in any unit."""

import math
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recap.data.encoding.kinds import decoded, is_text
from recap.data.formats.tables import TableFiles
from recap.errors import DataError
from recap.text import plural, shorten

SECOND = 1_000_000
"""Microseconds."""
HOUR, DAY = 3600 * SECOND, 86_400 * SECOND
_SECONDS_BELOW = 1e11
"""Integer times below it are in seconds; each unit after that is 1,000 times finer."""
_TIMES = (pa.timestamp("us"), pa.timestamp("us", "UTC"))
"""Times without and with a time zone."""
_FIRST_DATE, _LAST_DATE = 19_000_101, 22_001_231
"""Range of dates in digits, such as 20230405."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_TIME, _LAST_TIME = (int(np.datetime64(f"{year:04}", "us").astype(np.int64)) for year in (2, 9999))
"""Microseconds; calendars end a year beyond, which no time zone reaches from here."""


def times_of(column: pa.ChunkedArray, name: str) -> npt.NDArray[np.int64 | np.float64]:
    """Times as numbers that can be compared: dates and timestamps in seconds, numbers as they are.

    Raises DataError for values that are missing or no times.
    """
    values = _timestamps_or_numbers(column, name)
    if pa.types.is_timestamp(values.type):
        seconds: npt.NDArray[np.float64] = _integers(values) / 1e6
        return seconds
    return _numbers(values)


def microseconds_of(column: pa.ChunkedArray, name: str) -> npt.NDArray[np.int64]:
    """Times in microseconds since 1970 in UTC, [rows] int64.

    A timestamp without a time zone is in UTC. Numbers are dates in digits, such as 20230405, or count seconds,
    milliseconds, microseconds or nanoseconds since 1970, as their size says. Raises DataError as `times_of`, and for
    times before the year 2 or after 9998.
    """
    values = _timestamps_or_numbers(column, name)
    if not len(values):
        return np.empty(0, np.int64)
    times = _integers(values) if pa.types.is_timestamp(values.type) else _from_numbers(_numbers(values), name)
    if times.min() < _FIRST_TIME or times.max() >= _LAST_TIME:
        raise _beyond_calendar(name)
    return times


def _from_numbers(numbers: npt.NDArray[np.int64 | np.float64], name: str) -> npt.NDArray[np.int64]:
    if is_date(float(numbers.min())) and is_date(float(numbers.max())):
        return _from_dates(numbers.astype(np.int64), name)
    return from_epoch(numbers)


def _beyond_calendar(name: str) -> DataError:
    return DataError(f"column {name!r}: holds times before the year 2 or after 9998; fix them, or their unit")


def from_epoch(numbers: npt.NDArray[np.int64 | np.float64]) -> npt.NDArray[np.int64]:
    """Microseconds from counts since 1970 of one unit, which the largest of them tells."""
    unit = int(unit_of(float(np.abs(numbers).max())))
    if unit > SECOND:
        return (numbers // (unit // SECOND)).astype(np.int64)
    return np.floor(numbers * (SECOND // unit)).astype(np.int64)


def _timestamps_or_numbers(column: pa.ChunkedArray, name: str) -> pa.Array:
    """Timestamps in microseconds, integers or floats, without missing ones. Raises DataError."""
    values = decoded(column.combine_chunks())
    if is_text(values.type):
        values = _parsed(values, name)
    if pa.types.is_date(values.type) or pa.types.is_timestamp(values.type):
        is_finer = pa.types.is_timestamp(values.type) and values.type.unit == "ns"
        try:
            values = values.cast(pa.timestamp("us"), safe=not is_finer)
        except pa.ArrowInvalid:
            raise _beyond_calendar(name) from None
    elif not (
        pa.types.is_integer(values.type) or pa.types.is_floating(values.type) or pa.types.is_decimal(values.type)
    ):
        raise DataError(f"column {name!r}: holds {values.type}, expected times")
    missing = values.null_count
    if not missing and pa.types.is_floating(values.type):
        missing = int((~np.isfinite(values.to_numpy(zero_copy_only=False))).sum())
    if missing:
        them = "it" if missing == 1 else "them"
        raise DataError(f"column {name!r}: no time in {plural(missing, 'row')}; remove {them}")
    return values


def _integers(values: pa.Array) -> npt.NDArray[np.int64]:
    integers: npt.NDArray[np.int64] = values.cast(pa.int64()).to_numpy(zero_copy_only=False)
    return integers


def _numbers(values: pa.Array) -> npt.NDArray[np.int64 | np.float64]:
    if pa.types.is_integer(values.type):
        with suppress(pa.ArrowInvalid):  # unsigned, beyond int64
            return _integers(values)
    floats: npt.NDArray[np.float64] = values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return floats


def _parsed(texts: pa.Array, name: str) -> pa.Array:
    for kind in _TIMES:
        with suppress(pa.ArrowException):  # the next kind, or the error below
            return texts.cast(kind)
    for text in texts.drop_null():
        if not any(_is_time(text, kind) for kind in _TIMES):
            raise DataError(
                f"column {name!r}: found {shorten(str(text))!r}, expected a time such as 2026-01-31 18:00:00"
            )
    raise DataError(f"column {name!r}: some times have a time zone or an offset, others have none; write all alike")


def _is_time(text: pa.Scalar, kind: pa.DataType) -> bool:
    try:
        return bool(text.cast(kind).is_valid)
    except pa.ArrowException:
        return False


def _from_dates(digits: npt.NDArray[np.int64], name: str) -> npt.NDArray[np.int64]:
    """Microseconds at the start of dates in digits. Raises DataError for a day that no month has."""
    months = (digits // 10_000 - 1970) * 12 + digits // 100 % 100 - 1
    days = months.astype("datetime64[M]").astype("datetime64[D]") + (digits % 100 - 1)
    wrong = days.astype("datetime64[M]").astype(np.int64) != months
    wrong |= (digits // 100 % 100 - 1) // 12 != 0
    if wrong.any():
        raise DataError(
            f"column {name!r}: found {digits[wrong][0]}, which is not a date; expected one such as 20260131"
        )
    microseconds: npt.NDArray[np.int64] = days.astype("datetime64[us]").astype(np.int64)
    return microseconds


def unit_of(time: float) -> float:
    """How many units of an epoch time are one second."""
    return 1000.0 ** max(0, math.ceil(math.log10(max(abs(time), 1) / _SECONDS_BELOW) / 3))


def is_date(time: float) -> bool:
    """Whether a number is a date in digits, such as 20230405."""
    return _FIRST_DATE <= time <= _LAST_DATE


def shown(microseconds: int) -> str:
    """A time as text in UTC, such as `2026-01-31 18:00:00 UTC`; the number if it is beyond the calendar."""
    try:
        return (EPOCH + timedelta(microseconds=int(microseconds))).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError):
        return f"{microseconds} µs since 1970"


def name_of(microseconds: int, unit: str) -> str:
    """The name of the day or hour that begins at a time, such as `2026-01-31` or `2026-01-31T18`."""
    start = EPOCH + timedelta(microseconds=microseconds)
    return start.strftime("%Y-%m-%d" if unit == "day" else "%Y-%m-%dT%H")


def times_in(files: TableFiles, file: str, column: str) -> Iterator[npt.NDArray[np.int64]]:
    """The times of a file as `microseconds_of`, one array per chunk. Raises DataError, which names the file."""
    for _, table in files.tables([column], files.chunks_of(file)):
        try:
            yield microseconds_of(table.column(column), column)
        except DataError as error:
            raise DataError(f"{file}: {error}") from None


def time_range(files: TableFiles, file: str, column: str) -> tuple[int, int] | None:
    """The first and the last time in a file, in microseconds since 1970; None for a file without rows.

    Reads the column. Raises DataError, which names the file.
    """
    ranges = [(int(times.min()), int(times.max())) for times in times_in(files, file, column) if len(times)]
    if not ranges:
        return None
    return min(first for first, _ in ranges), max(last for _, last in ranges)
