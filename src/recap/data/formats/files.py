"""Finds and opens the files of a source: local paths, and URLs of object stores."""

import glob
import os
import re
from collections.abc import Sequence
from datetime import datetime, timedelta

import pyarrow as pa

from recap.config.data import DailyInputs, HourlyInputs
from recap.data.formats.object_stores import is_remote, is_remote_folder, reason, remote_file, remote_glob, remote_stamp
from recap.errors import DataError


def find_files(inputs: Sequence[str] | HourlyInputs | DailyInputs) -> list[str]:
    """The files that globs of paths or URLs match, or that are in the folders of hours or days; sorted by name.

    Raises DataError for a glob that matches no file, and if more hours or days are missing than the config tolerates.
    """
    if isinstance(inputs, HourlyInputs):
        last = datetime.strptime(inputs.end_datetime, "%Y/%m/%d/%H")
        times = [last - timedelta(hours=back) for back in range(inputs.hours)]
        return _find_by_time(inputs, times, inputs.num_missing_hours_tol, "hour")
    if isinstance(inputs, DailyInputs):
        last = datetime.strptime(inputs.end_date, "%Y/%m/%d")
        times = [last - timedelta(days=back) for back in range(inputs.days)]
        return _find_by_time(inputs, times, inputs.num_missing_days_tol, "day")
    matches: set[str] = set()
    for pattern in map(_local_path, inputs):
        files = _match(pattern)
        if not files and (is_remote_folder(pattern) if is_remote(pattern) else os.path.isdir(pattern)):
            raise DataError(f"{pattern}: is a folder; name its files, such as {os.path.join(pattern, '*.parquet')}")
        if not files:
            working_directory = "" if is_remote(pattern) else f" (working directory {os.getcwd()})"
            raise DataError(f"{pattern}: matches no file{working_directory}; check the path, or create the data")
        matches.update(files)
    return sorted(matches)


def _local_path(file: str) -> str:
    """The path of a `file://` URL; anything else unchanged."""
    return file.removeprefix("file://")


def _match(pattern: str) -> list[str]:
    """The files that one glob matches; the path of an existing file matches that file, even if it looks like a glob."""
    if is_remote(pattern):
        return remote_glob(pattern)
    if os.path.isfile(pattern):
        return [pattern]
    return [file for file in glob.glob(pattern, recursive=True) if os.path.isfile(file)]


def _find_by_time(inputs: HourlyInputs | DailyInputs, times: list[datetime], tolerated: int, unit: str) -> list[str]:
    """The files in the folders of all `times`."""
    matches: set[str] = set()
    missing: list[str] = []
    for time in reversed(times):
        folder = os.path.join(_local_path(inputs.data_root), time.strftime(inputs.folders))
        files = _match(os.path.join(glob.escape(folder), inputs.files))
        if files:
            matches.update(files)
        else:
            missing.append(folder)
    if len(missing) > tolerated or not matches:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise DataError(
            f"{inputs.data_root}: {len(missing)} of {len(times)} {unit}s have no file, {tolerated} are tolerated "
            f"(num_missing_{unit}s_tol). Missing: {shown}"
        )
    return sorted(matches)


def open_file(file: str) -> pa.NativeFile:
    """Open a path or URL for random access; a context manager. Raises OSError."""
    return remote_file(file) if is_remote(file) else pa.OSFile(_local_path(file))


def read_bytes(file: str) -> bytes:
    """The content of a path or URL. Raises OSError."""
    with open_file(file) as stream:
        return bytes(stream.read())


def stamp(file: str) -> tuple[int, int]:
    """Modification time (ns) and size (bytes), which show whether a file has changed. Raises DataError."""
    try:
        if is_remote(file):
            return remote_stamp(file)
        status = os.stat(_local_path(file))
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({reason(error)})") from None
    return status.st_mtime_ns, status.st_size


def relative_names(files: Sequence[str], inputs: Sequence[str] | HourlyInputs | DailyInputs = ()) -> list[str]:
    """The paths of `files` relative to their common folder, in the same order.

    With `inputs`, which match them, relative to the folder before the first wildcard, so that names stay the same when
    files are added.
    """
    paths = [_absolute(file) for file in files]
    folders = [os.path.dirname(path) for path in paths]
    if isinstance(inputs, HourlyInputs | DailyInputs):
        folders = [_absolute(inputs.data_root)]
    elif inputs:
        folders = [os.path.dirname(_absolute(re.split(r"[*?[]", pattern)[0] + "x")) for pattern in inputs]
    folder = os.path.commonpath(folders)
    return [os.path.relpath(path, folder) for path in paths]


def _absolute(file: str) -> str:
    """An absolute path; for a URL, `/scheme/authority/key`."""
    if is_remote(file):
        return os.path.normpath("/" + file.replace("://", "/", 1))
    return os.path.abspath(_local_path(file))
