"""The versions of a model on disk: the names of their folders, from oldest to newest, and whether one has changed."""

import os
import re
from pathlib import Path

from recap.config.serving.server import MODEL_NAME
from recap.errors import CheckpointError
from recap.runs import Run
from recap.storage import MANIFEST

_VERSION = re.compile(MODEL_NAME)
"""Names of folders that are versions."""
_INCOMPLETE = (".unfinished", ".replaced")
"""Suffixes of folders that are being written or deleted."""

State = frozenset[tuple[str, int, int, int]]
"""Name, inode, size and time of each file of a version: another state is another version under the same name."""


def find_versions(root: Path) -> dict[str, Path]:
    """Name → folder of each version of the model at `root`, the newest last.

    `root` is a model directory, a run, or a folder of model directories; a link to one is followed, so that a link to
    another directory is another version. Raises CheckpointError if there is none.
    """
    if not root.is_dir():
        state = "is a file" if root.exists() else "no such folder"
        raise CheckpointError(f"{root}: {state}; expected a model directory, a run, or a folder of model directories")
    if (root / MANIFEST).exists():
        folder = Path(os.path.realpath(root))
        if not _VERSION.fullmatch(folder.name):
            raise CheckpointError(f"{root}: the name of its folder is its version; use only letters, digits, . _ and -")
        return {folder.name: folder}
    checkpoints = Run(root).checkpoints_folder
    parent = checkpoints if checkpoints.is_dir() else root
    folders = [folder for folder in parent.iterdir() if (folder / MANIFEST).exists() and _is_version(folder.name)]
    if not folders:
        raise CheckpointError(f"{root}: no model directory in {parent}; train first, or copy one into it")
    return {folder.name: folder for folder in sorted(folders, key=lambda folder: _natural(folder.name))}


def state_of(folder: Path) -> State:
    """The state of a version; it differs when a file was added, removed or replaced."""
    files = []
    for path in folder.rglob("*"):
        try:
            status = path.stat()
        except OSError:  # being replaced
            continue
        files.append((path.relative_to(folder).as_posix(), status.st_ino, status.st_size, status.st_mtime_ns))
    return frozenset(files)


def _is_version(name: str) -> bool:
    return bool(_VERSION.fullmatch(name)) and not name.endswith(_INCOMPLETE)


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Orders names as a person does: v9 before v10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]
