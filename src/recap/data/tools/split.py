"""`recap data split`: writes the rows of files into one file per window of time."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recap.data.formats.tables import TableFiles
from recap.data.tools.outputs import check_folder
from recap.data.tools.parts import write_parts
from recap.data.tools.times import DAY, EPOCH, HOUR, SECOND, from_epoch, is_date, microseconds_of, name_of, times_in
from recap.errors import DataError, InputError
from recap.storage import check_not_an_input
from recap.text import plural, shorten

MAX_WINDOWS = 1000
"""Files that are written at once."""


@dataclass(frozen=True)
class Cut:
    """Where one window of time ends and the next begins: every `step` microseconds of local time, or at `times`."""

    step: int = 0
    """`DAY` or `HOUR`; 0 for windows between `times`."""
    times: tuple[int, ...] = ()
    """Microseconds since 1970, ascending: each is the first moment of a window."""
    timezone: str = "UTC"
    """Time zone of days, hours and names."""

    def windows_of(self, times: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The number of the window of each time, [rows] int64, ascending in time."""
        if self.step:
            return self._local(times) // self.step
        return np.searchsorted(np.array(self.times, np.int64), times, side="right").astype(np.int64)

    def _local(self, times: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Microseconds on the clock of the time zone."""
        if self.timezone == "UTC":
            return times
        local: npt.NDArray[np.int64] = (
            pc.local_timestamp(pa.array(times).cast(pa.timestamp("us", self.timezone))).cast(pa.int64()).to_numpy()
        )
        return local

    def name(self, window: int, first: int) -> str:
        """The name of a window by its first moment, such as `2024-05-01` or `2024-05-01T13`.

        `first`: the first time of its rows, which names the window before all `times`.
        """
        if self.step:
            return name_of(window * self.step, "day" if self.step == DAY else "hour")
        moment = self.times[window - 1] if window else first
        start = EPOCH + timedelta(microseconds=int(self._local(np.array([moment], np.int64))[0]))
        text = start.strftime("%Y-%m-%dT%H-%M-%S")
        return f"{text}.{start.microsecond:06}" if start.microsecond else text.removesuffix("T00-00-00")


def parse_cut(*, days: bool, hours: bool, at: Sequence[str], timezone: str) -> Cut:
    """The cut of the options `--days`, `--hours`, `--at` and `--timezone`. Raises InputError."""
    if days + hours + bool(at) != 1:
        raise InputError("give one of --days, --hours and --at TIME, to say where a window of time ends")
    try:
        zone = ZoneInfo(timezone)
        pc.local_timestamp(pa.array([0]).cast(pa.timestamp("us", timezone)))
    except (KeyError, ValueError, OSError):  # an unknown name, one that is no name of a zone, or a folder
        raise InputError(
            f"--timezone: unknown time zone {shorten(timezone)!r}; expected a name such as Europe/Berlin"
        ) from None
    if not at:
        return Cut(DAY if days else HOUR, timezone=timezone)
    times = tuple(parse_time(text, zone, "--at") for text in at)
    for (one, other), (before, after) in zip(pairwise(at), pairwise(times), strict=True):
        if after <= before:
            raise InputError(f"--at: the times must ascend; found {other} after {one}")
    return Cut(times=times, timezone=timezone)


def parse_time(text: str, zone: ZoneInfo, option: str) -> int:
    """Microseconds since 1970 of an ISO 8601 date or time, or of a number as in a column. Raises InputError."""
    try:
        if text.isascii() and text.isdigit() and not (len(text) == 8 and is_date(int(text))):
            return int(from_epoch(np.array([int(text)], np.int64))[0])
        time = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise InputError(
            f"{option}: expected a date or time such as 2026-01-31 or 2026-01-31T18:00, or a number as in the column, "
            f"found {shorten(text)!r}"
        ) from None
    since = (time if time.tzinfo is not None else time.replace(tzinfo=zone)) - EPOCH
    return (since.days * 86_400 + since.seconds) * SECOND + since.microseconds


def split_files(
    inputs: Sequence[str],
    output: Path,
    column: str,
    cut: Cut,
    schema_path: str | None = None,
    *,
    overwrite: bool = False,
    after_rows: Callable[[int], None] = lambda rows: None,
) -> dict[Path, int]:
    """Write the rows of all files into a Parquet file per window of time; return file → rows, in the order of time.

    Rows keep their order. The files appear together, when all rows are written. Reads the time column first, so that
    nothing is written for rows without a time or for a single window. Raises DataError and InputError.
    """
    files = TableFiles.open(inputs, schema_path)
    rows, firsts = _count(files, column, cut)
    names = {window: cut.name(window, firsts[window]) for window in sorted(rows)}
    if len(rows) < 2:
        raise InputError(
            f"{files.files[0]}: all {plural(sum(rows.values()), 'row')} are in one window of time, "
            f"{next(iter(names.values()))}; there is nothing to split"
        )
    if len(rows) > MAX_WINDOWS:
        raise InputError(
            f"{files.files[0]}: {len(rows):,} windows of time are more than {MAX_WINDOWS:,}, which can be written at "
            "once; split into longer windows, or check the unit of the times"
        )
    for name, count in Counter(names.values()).items():
        if count > 1:
            raise InputError(
                f"--at: {plural(count, 'window')} would be named {name}, because the clocks of {cut.timezone} go back; "
                "add --timezone UTC, with offsets in the times"
            )
    check_folder(output)
    outputs = {window: output / f"{name}.parquet" for window, name in names.items()}
    check_not_an_input(outputs.values(), files.files)
    for file in outputs.values():
        if file.exists() and not (overwrite and file.is_file()):
            raise InputError(f"{file}: already exists; add --overwrite to replace it, or choose another --output")

    def parts() -> Iterator[tuple[pa.Table, npt.NDArray[np.int64]]]:
        for _, table in files.tables():
            yield table, cut.windows_of(microseconds_of(table.column(column), column))
            after_rows(table.num_rows)

    write_parts(parts(), outputs, files.files[0])
    return {outputs[window]: rows[window] for window in names}


def _count(files: TableFiles, column: str, cut: Cut) -> tuple[Counter[int], dict[int, int]]:
    """Window → its rows, and window → its first time. Raises DataError, which names the file."""
    rows: Counter[int] = Counter()
    firsts: dict[int, int] = {}
    for file in files.files_with_rows():
        if column not in files.schema(file).names:
            raise DataError(f"{file}: has no column {column!r}, which --by names")
        for times in times_in(files, file, column):
            windows, counts = np.unique(cut.windows_of(times), return_counts=True)
            rows.update(dict(zip(windows.tolist(), counts.tolist(), strict=True)))
            first = int(times.min()) if len(times) else 0
            for window in windows.tolist():
                firsts[window] = min(firsts.get(window, first), first)
    return rows, firsts
