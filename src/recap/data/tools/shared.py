"""Files that two data sets have in common."""

import filecmp
import os
from collections.abc import Sequence
from contextlib import suppress

from recap.config.data import DailyInputs, HourlyInputs, SourceConfig
from recap.data.formats.files import find_files
from recap.data.formats.object_stores import is_remote
from recap.data.formats.open import open_format
from recap.errors import InputError


def shared_files(files: Sequence[str], others: Sequence[str], source: SourceConfig) -> list[tuple[str, str]]:
    """Those of `others`, which are files of `source`, that are among `files` too, each with its equal there.

    Also through a link or another path, or as a copy, byte for byte; files elsewhere only by name.
    """
    known: dict[object, str] = {}
    by_size: dict[int | None, list[str]] = {}
    for file in files:
        identity, size = _identity(file)
        known.setdefault(identity, file)
        by_size.setdefault(size, []).append(file)
    shared = []
    for file in others:
        identity, size = _identity(file)
        same = known.get(identity)
        if same is None and size is not None:
            same = _copied(file, by_size.get(size, ()), source)
        if same is not None:
            shared.append((file, same))
    return shared


def files_of(source: SourceConfig) -> list[str]:
    """The files of a source; none if they cannot be listed."""
    with suppress(InputError):
        return find_files(source.inputs)[: source.num_files_to_keep]
    return []


def shared_with(one: SourceConfig, other: SourceConfig) -> list[str]:
    """The files of `other` that `one` has too. An object store is not listed for what can only be local files."""
    others = files_of(other)
    if _is_remote(one) and not any(map(is_remote, others)):
        return []
    return [file for file, _ in shared_files(files_of(one), others, other)]


def _is_remote(source: SourceConfig) -> bool:
    """Whether all files of a source are named by URLs."""
    inputs = source.inputs
    return all(map(is_remote, [inputs.data_root] if isinstance(inputs, HourlyInputs | DailyInputs) else inputs))


def _identity(file: str) -> tuple[object, int | None]:
    """Device and inode of a local file, and its size; its name and None if it is elsewhere."""
    try:
        status = os.stat(file)
    except (OSError, ValueError):
        return file, None
    return (status.st_dev, status.st_ino), status.st_size


def _copied(file: str, others: Sequence[str], source: SourceConfig) -> str | None:
    """The first of `others` with the bytes of `file`, which is of `source`. Files without rows are all alike."""
    with suppress(OSError, InputError):
        same = next((other for other in others if filecmp.cmp(file, other, shallow=False)), None)
        return same if same is not None and sum(open_format(source, {}).chunk_rows(file)) > 0 else None
    return None
