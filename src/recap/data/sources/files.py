"""Which files a source has, and what is said of those that cannot be read."""

import glob
import os
from collections.abc import Sequence

from recap.errors import DataError


def find_files(inputs: Sequence[str]) -> list[str]:
    """The files that globs match, each once, by name. Raises DataError for a glob that matches nothing."""
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


def stamp(file: str) -> tuple[int, int]:
    """When a file was changed and how large it is: what was learned of it holds while these do. Raises DataError."""
    try:
        status = os.stat(file)
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror})") from None
    return status.st_mtime_ns, status.st_size
