"""Finds and opens the files of a source: local paths, and URLs of object stores."""

import glob
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import NoReturn

import pyarrow as pa

from recap.config.data import DailyInputs, HourlyInputs
from recap.data.formats.object_stores import is_remote, is_remote_folder, reason, remote_file, remote_glob, remote_stamp
from recap.errors import DataError
from recap.storage import regular_status

LISTERS = 8
"""Threads that list files of an object store: they mostly wait, so their number does not depend on the CPUs."""


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
    patterns = [_local_path(pattern) for pattern in inputs]
    matches: set[str] = set()
    for pattern, files in zip(patterns, _match_all(patterns), strict=True):
        matches.update(files or _no_match(pattern))
    return sorted(matches)


def _no_match(pattern: str) -> NoReturn:
    """Raise DataError for a glob that matches no data file."""
    if is_remote_folder(pattern) if is_remote(pattern) else os.path.isdir(pattern):
        raise DataError(f"{pattern}: is a folder; name its files, such as {os.path.join(pattern, '*.parquet')}")
    markers = _glob(pattern)
    if markers:
        name = markers[0].rpartition("/")[2]
        raise DataError(
            f"{pattern}: matches no data file, only markers and hidden files such as {name}; "
            "check the path, or create the data"
        )
    working_directory = "" if is_remote(pattern) else f" (working directory {os.getcwd()})"
    raise DataError(f"{pattern}: matches no file{working_directory}; check the path, or create the data")


def _local_path(file: str) -> str:
    """The path of a `file://` URL; anything else unchanged."""
    return file.removeprefix("file://")


def _match_all(patterns: Sequence[str]) -> list[list[str]]:
    """The data files that each glob matches; several threads list object stores, as they mostly wait."""
    with ThreadPoolExecutor(LISTERS if any(map(is_remote, patterns)) else 1, "recap-lister") as pool:
        return list(pool.map(_match, patterns))


def _match(pattern: str) -> list[str]:
    """The data files that one glob matches.

    Raises DataError for what is neither a file nor a folder, and for a name that Arrow cannot open.
    """
    files = [file for file in _glob(pattern) if not _is_marker(file, pattern)]
    for file in files if not is_remote(pattern) else ():
        try:
            file.encode()
            regular_status(file)
        except OSError as error:
            raise DataError(f"{file}: cannot be read ({reason(error)}); give the path of a file") from None
        except UnicodeEncodeError:
            raise DataError(f"{file!a}: its name is not UTF-8 text; rename the file") from None
    return files


def _glob(pattern: str) -> list[str]:
    """What one glob matches, without folders; an existing path matches itself, even if it looks like a glob."""
    if is_remote(pattern):
        return remote_glob(pattern)
    paths = [pattern] if os.path.lexists(pattern) else glob.glob(pattern, recursive=True)
    return [path for path in paths if not os.path.isdir(path)]


def _is_marker(file: str, pattern: str) -> bool:
    """Whether a wildcard matched a file that writers put beside the data: `_SUCCESS`, `_metadata`, `.part.crc`.

    Its name or that of a folder begins with a dot or underscore, unless it is a partition such as `_day=1`. A glob that
    says so itself, such as `_*`, matches such files.
    """
    if file.endswith(".crc") and not pattern.endswith(".crc"):
        return True
    return _hidden_segments(file) > _hidden_segments(pattern)


def _hidden_segments(path: str) -> int:
    """The number of segments that begin with a dot or underscore, without partitions."""
    return sum(segment.startswith((".", "_")) and "=" not in segment for segment in path.split("/"))


def _find_by_time(inputs: HourlyInputs | DailyInputs, times: list[datetime], tolerated: int, unit: str) -> list[str]:
    """The files in the folders of all `times`."""
    matches: set[str] = set()
    missing: list[str] = []
    folders = [os.path.join(_local_path(inputs.data_root), time.strftime(inputs.folders)) for time in reversed(times)]
    patterns = [os.path.join(glob.escape(folder), inputs.files) for folder in folders]
    for folder, files in zip(folders, _match_all(patterns), strict=True):
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
    if is_remote(file):
        return remote_file(file)
    regular_status(_local_path(file))
    return pa.OSFile(_local_path(file))


def read_bytes(file: str) -> bytes:
    """The content of a path or URL. Raises OSError."""
    with open_file(file) as stream:
        return bytes(stream.read())


def stamp(file: str) -> tuple[int, int]:
    """Modification time (ns) and size (bytes), which show whether a file has changed. Raises DataError."""
    try:
        if is_remote(file):
            return remote_stamp(file)
        status = regular_status(_local_path(file))
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
