"""A validation set out of one set of files: the latest rows by time, or a random share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recap.data.formats.tables import TableFiles
from recap.data.tools.parts import write_parts
from recap.data.tools.times import from_epoch, is_date, shown, times_of, unit_of
from recap.errors import DataError, InputError

LAST_DAY: Literal["last-day"] = "last-day"
_DAY = 86_400


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


def _start_of_last_day(last: float) -> float:
    if is_date(last):
        return last
    day = _DAY * unit_of(last)
    return last // day * day


def _shown(time: np.int64 | np.float64) -> str:
    return f"{time:.0f}" if is_date(float(time)) else shown(int(from_epoch(np.asarray([time]))[0]))


def write_split(files: TableFiles, split: Split, columns: Sequence[str], outputs: Mapping[bool, Path]) -> None:
    """Write the rows for training (`outputs[False]`) and for validation (`outputs[True]`) as Parquet, in their order.

    Both files appear together, when all rows are written. Raises DataError and InputError.
    """
    random = np.random.default_rng(0)
    names = [*columns, *([split.time] if split.time is not None and split.time not in columns else [])]
    tables = (table for _, table in files.tables(names))
    write_parts(
        ((table.select(columns), split.is_validation(table, random)) for table in tables), outputs, files.files[0]
    )
