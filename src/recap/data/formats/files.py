"""Which files a source has, and what is said of those that cannot be read."""

import glob
import os
import re
from collections.abc import Sequence
from datetime import datetime, timedelta

import pyarrow as pa

from recap.config.data import DailyInputs, HourlyInputs
from recap.data.formats.filesystem import is_remote, is_remote_folder, reason, remote_file, remote_glob, remote_stamp
from recap.errors import DataError


def find_files(inputs: Sequence[str] | HourlyInputs | DailyInputs) -> list[str]:
    """The files that globs match, or those of folders by hour or by day, each once, by name; URLs of stores as paths.

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
    for pattern in map(_plain, inputs):
        files = _matched(pattern)
        if not files and (is_remote_folder(pattern) if is_remote(pattern) else os.path.isdir(pattern)):
            raise DataError(f"{pattern}: is a folder; name its files, such as {os.path.join(pattern, '*.parquet')}")
        if not files:
            here = "" if is_remote(pattern) else f" (working directory {os.getcwd()})"
            raise DataError(f"{pattern}: matches no file{here}; check the path of the data, or make it first")
        found.update(files)
    return sorted(found)


def _plain(file: str) -> str:
    """A local path as such; a URL as it is."""
    return file.removeprefix("file://")


def _matched(pattern: str) -> list[str]:
    """The files of one glob. A file that is named whole is that file, whatever its name would match."""
    if is_remote(pattern):
        return remote_glob(pattern)
    matched = [pattern] if os.path.isfile(pattern) else glob.glob(pattern, recursive=True)
    return [file for file in matched if os.path.isfile(file)]


def _by_time(inputs: HourlyInputs | DailyInputs, times: list[datetime], tolerated: int, unit: str) -> list[str]:
    """The files of each time's folder."""
    found: set[str] = set()
    missing: list[str] = []
    for time in reversed(times):
        folder = os.path.join(_plain(inputs.data_root), time.strftime(inputs.folders))
        files = _matched(os.path.join(glob.escape(folder), inputs.files))
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
    """A file to be read at any place, or a URL; it closes with its block. Raises OSError."""
    return remote_file(file) if is_remote(file) else pa.OSFile(_plain(file))


def read_whole(file: str) -> bytes:
    """All that a file holds. Raises OSError."""
    with open_file(file) as stream:
        return bytes(stream.read())


def stamp(file: str) -> tuple[int, int]:
    """When a file was changed and how large it is: what was learned of it holds while these do. Raises DataError."""
    try:
        if is_remote(file):
            return remote_stamp(file)
        status = os.stat(_plain(file))
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({reason(error)})") from None
    return status.st_mtime_ns, status.st_size


def relative_names(files: Sequence[str], inputs: Sequence[str] | HourlyInputs | DailyInputs = ()) -> list[str]:
    """What files are called below their common folder, in their order, wherever that is.

    With the `inputs` that found them, below the folder that these name before their first `*`: it stays the same when
    files are added.
    """
    paths = [_absolute(file) for file in files]
    folders = [os.path.dirname(path) for path in paths]
    if isinstance(inputs, HourlyInputs | DailyInputs):
        folders = [_absolute(inputs.data_root)]
    elif inputs:
        folders = [os.path.dirname(_absolute(re.split(r"[*?[]", each)[0] + "x")) for each in inputs]
    folder = os.path.commonpath(folders)
    return [os.path.relpath(path, folder) for path in paths]


def _absolute(file: str) -> str:
    """A path in which that of a URL, too, begins with its folders."""
    return os.path.normpath("/" + file.replace("://", "/", 1)) if is_remote(file) else os.path.abspath(_plain(file))
