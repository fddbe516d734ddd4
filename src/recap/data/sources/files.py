"""Which files a source has, and what is said of those that cannot be read."""

import glob
import os
from collections.abc import Sequence
from datetime import datetime, timedelta

import pyarrow as pa

from recap.config.data import DailyInputs, HourlyInputs
from recap.errors import DataError


def find_files(inputs: Sequence[str] | HourlyInputs | DailyInputs) -> list[str]:
    """The files that globs match, or those of folders by hour or by day, each once, by name.

    Raises DataError for a glob that matches nothing, and for more missing hours or days than are tolerated.
    """
    if isinstance(inputs, HourlyInputs):
        last = datetime.strptime(inputs.end_datetime, "%Y/%m/%d/%H")
        times = [last - timedelta(hours=back) for back in range(inputs.hours)]
        return _by_time(inputs, times, inputs.num_missing_hours_tol, "hour")
    if isinstance(inputs, DailyInputs):
        last = datetime.strptime(inputs.end_date, "%Y/%m/%d")
        times = [last - timedelta(days=back) for back in range(inputs.days)]
        return _by_time(inputs, times, inputs.num_missing_days_tol, "day")
    found: set[str] = set()
    for pattern in inputs:
        # A file that is named whole is that file, whatever its name would match.
        matched = [pattern] if os.path.isfile(pattern) else glob.glob(pattern, recursive=True)
        files = [file for file in matched if os.path.isfile(file)]
        if not files and os.path.isdir(pattern):
            raise DataError(f"{pattern}: is a folder; name its files, such as {os.path.join(pattern, '*.parquet')}")
        if not files:
            raise DataError(
                f"{pattern}: matches no file (working directory {os.getcwd()}); "
                "check the path of the data, or make it first"
            )
        found.update(files)
    return sorted(found)


def _by_time(inputs: HourlyInputs | DailyInputs, times: list[datetime], tolerated: int, unit: str) -> list[str]:
    """The files of each time's folder."""
    found: set[str] = set()
    missing: list[str] = []
    for time in reversed(times):
        folder = os.path.join(inputs.data_root, time.strftime(inputs.folders))
        pattern = os.path.join(glob.escape(folder), inputs.files)
        files = [file for file in glob.glob(pattern, recursive=True) if os.path.isfile(file)]
        found.update(files)
        missing += [] if files else [folder]
    if len(missing) > tolerated or not found:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise DataError(
            f"{inputs.data_root}: {len(missing)} of {len(times)} {unit}s have no file, {tolerated} are tolerated "
            f"(num_missing_{unit}s_tol). Without one: {shown}"
        )
    return sorted(found)


def open_file(file: str) -> pa.NativeFile:
    """A file to be read at any place; it closes with its block. Raises OSError."""
    return pa.OSFile(file)


def stamp(file: str) -> tuple[int, int]:
    """When a file was changed and how large it is: what was learned of it holds while these do. Raises DataError."""
    try:
        status = os.stat(file)
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror})") from None
    return status.st_mtime_ns, status.st_size


def relative_names(files: Sequence[str]) -> list[str]:
    """What files are called below their common folder, in their order, wherever that is."""
    folder = os.path.commonpath([os.path.dirname(os.path.abspath(file)) for file in files])
    return [os.path.relpath(os.path.abspath(file), folder) for file in files]
