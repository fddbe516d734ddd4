"""A validation set out of one set of files: the latest rows by time, or a random share."""

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from recap.data.encoding.kinds import decoded, is_text
from recap.data.formats.tables import TableFiles
from recap.errors import DataError, InputError
from recap.storage import atomic_write

LAST_DAY: Literal["last-day"] = "last-day"
_DAY = 86_400
_SECONDS_BELOW = 1e11
"""Integer times below it are in seconds; each unit after that is 1,000 times finer."""
_FIRST_DATE, _LAST_DATE = 19_000_101, 22_001_231
"""Range of dates in digits, such as 20230405."""
_ROW_GROUP = 65_536


@dataclass(frozen=True)
class Split:
    """Which rows are for validation: those from a time on, or a random share."""

    time: str | None
    """The time column; None for random rows."""
    boundary: int | float
    """The first time of the validation set, or the share of random rows."""
    comment: str
    train_rows: int
    validation_rows: int

    def is_validation(self, table: pa.Table, random: np.random.Generator) -> npt.NDArray[np.bool_]:
        """Whether each row of `table` is for validation, [rows]."""
        if self.time is None:
            drawn: npt.NDArray[np.bool_] = random.random(table.num_rows) < self.boundary
            return drawn
        later: npt.NDArray[np.bool_] = times_of(table.column(self.time), self.time) >= self.boundary
        return later


def parse_share(text: str) -> float | None:
    """The value of `--validation` as a share of the rows; None for the name of a file. Raises InputError."""
    try:
        share = float(text)
    except ValueError:
        return None
    if not 0 < share < 1:
        raise InputError(f"--validation {text}: expected a share of the rows between 0 and 1, last-day, or files")
    return share


def find_split(files: TableFiles, time: str | None, wanted: float | Literal["last-day"], rows: int) -> Split:
    """Where to split `files`, which hold `rows` rows. Reads the time column. Raises DataError and InputError."""
    if time is None and isinstance(wanted, str):
        raise InputError("--validation last-day: no column looks like a time; name it with --time, or give a share")
    if time is None:
        held_out = _random_rows(rows, float(wanted))
        return Split(None, float(wanted), "a random share; with a --time column, the latest", rows - held_out, held_out)
    times = np.concatenate([times_of(table.column(time), time) for _, table in files.tables([time])])
    values, counts = np.unique(times, return_counts=True)
    later = counts[::-1].cumsum()[::-1]  # rows from each value on
    if len(values) < 2:
        raise DataError(f"{files.files[0]}: column {time!r}: holds a single time; name another --time")
    if isinstance(wanted, str):
        index = int(np.searchsorted(values, _start_of_last_day(float(values[-1]))))
        if index == 0:
            raise DataError(f"{files.files[0]}: column {time!r}: all rows are of one day; give a share, such as 0.1")
    else:
        index = 1 + int(np.argmin(np.abs(later[1:] / len(times) - wanted)))
    held_out = int(later[index])
    comment = f"{time} from {_shown(values[index])} on"
    return Split(time, values[index].item(), comment, len(times) - held_out, held_out)


def _random_rows(rows: int, share: float) -> int:
    return int((np.random.default_rng(0).random(rows) < share).sum())


def times_of(column: pa.ChunkedArray, name: str) -> npt.NDArray[np.int64 | np.float64]:
    """Times as numbers that can be compared: dates and timestamps in seconds, numbers as they are.

    Raises DataError for values that are missing or no times.
    """
    values = decoded(column.combine_chunks())
    if is_text(values.type):
        values = _parsed(values, name)
    if pa.types.is_date(values.type) or pa.types.is_timestamp(values.type):
        seconds = values.cast(pa.timestamp("us")).cast(pa.int64()).to_numpy(zero_copy_only=False) / 1e6
        numbers: npt.NDArray[np.int64 | np.float64] = seconds
    elif pa.types.is_integer(values.type):
        numbers = values.fill_null(0).cast(pa.int64()).to_numpy()
    elif pa.types.is_floating(values.type) or pa.types.is_decimal(values.type):
        numbers = values.cast(pa.float64()).to_numpy(zero_copy_only=False)
    else:
        raise DataError(f"column {name!r}: holds {values.type}, expected times to split by; name another --time")
    missing = values.null_count + int(np.isnan(numbers).sum()) * (values.null_count == 0)
    if missing:
        raise DataError(f"column {name!r}: {missing:,} rows have no time, so they cannot be split by it; remove them")
    return numbers


def _parsed(texts: pa.Array, name: str) -> pa.Array:
    for kind in (pa.timestamp("us"), pa.timestamp("us", "UTC")):
        with suppress(pa.ArrowException):  # the next kind, or the error below
            return texts.cast(kind)
    text = next((value for value in texts.to_pylist() if value is not None), None)
    raise DataError(f"column {name!r}: found {text!r}, expected a time such as 2026-01-31 18:00:00")


def _unit(time: float) -> float:
    """How many units of an epoch time are one second."""
    return 1000.0 ** max(0, math.ceil(math.log10(max(abs(time), 1) / _SECONDS_BELOW) / 3))


def _is_date(time: float) -> bool:
    return _FIRST_DATE <= time <= _LAST_DATE


def _start_of_last_day(last: float) -> float:
    if _is_date(last):
        return last
    day = _DAY * _unit(last)
    return last // day * day


def _shown(time: np.int64 | np.float64) -> str:
    if _is_date(float(time)):
        return f"{time:.0f}"
    return datetime.fromtimestamp(float(time) / _unit(float(time)), UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def write_split(files: TableFiles, split: Split, columns: Sequence[str], outputs: Mapping[bool, Path]) -> None:
    """Write the rows for training (`outputs[False]`) and for validation (`outputs[True]`) as Parquet, in their order.

    Both files appear together, when all rows are written. Raises DataError and InputError.
    """
    random = np.random.default_rng(0)
    names = [*columns, *([split.time] if split.time is not None and split.time not in columns else [])]
    with ExitStack() as stack:
        writers = {part: _Writer(stack, path) for part, path in outputs.items()}
        for table in (table for _, table in files.tables(names)):
            later = split.is_validation(table, random)
            for part, writer in writers.items():
                writer.add(table.filter(pa.array(later == part)).select(columns), files.files[0])
        for writer in writers.values():
            writer.close()


class _Writer:
    """Writes one Parquet file in row groups of a useful size."""

    def __init__(self, stack: ExitStack, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = stack.enter_context(atomic_write(path))
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror})") from None
        self._stack = stack
        self._tables: list[pa.Table] = []
        self._writer: pq.ParquetWriter | None = None

    def add(self, table: pa.Table, file: str) -> None:
        """Add the next rows."""
        if self._writer is None:
            self._schema = table.schema
            self._writer = self._stack.enter_context(pq.ParquetWriter(self._file, self._schema, compression="zstd"))
        try:
            self._tables.append(table.cast(self._schema))
        except (pa.ArrowException, ValueError) as error:
            raise DataError(f"{file} and other files hold columns of different types ({error})") from None
        if sum(rows.num_rows for rows in self._tables) >= _ROW_GROUP:
            self._write()

    def close(self) -> None:
        """Write what is left."""
        self._write()
        assert self._writer is not None
        self._writer.close()

    def _write(self) -> None:
        assert self._writer is not None
        if self._tables:
            self._writer.write_table(pa.concat_tables(self._tables))
        self._tables = []
