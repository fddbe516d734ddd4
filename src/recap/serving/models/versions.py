"""The versions of a model on disk: the names of their folders, from oldest to newest, and whether one has changed."""

import os
import re
from contextlib import suppress
from pathlib import Path

from recap.config.serving.server import MODEL_NAME
from recap.errors import CheckpointError
from recap.runs import BEST, Run
from recap.storage import MANIFEST
from recap.text import shorten

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
    folders = _folders_in(root)
    if not folders:
        raise CheckpointError(_without_versions(root))
    return {folder.name: folder for folder in sorted(folders, key=lambda folder: _natural(folder.name))}


def best_version(root: Path) -> str:
    """The name of the checkpoint of the run at `root` at which the watched metric was best. Raises CheckpointError."""
    if not Run(root).checkpoints_folder.is_dir():
        raise CheckpointError(f"{root}: not a run, so no version of it is known to be best; name a version")
    return Run(root).checkpoint(BEST).name


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


def _folders_in(root: Path) -> list[Path]:
    """The model directories in a run, or in a folder of them."""
    checkpoints = Run(root).checkpoints_folder
    parent = checkpoints if checkpoints.is_dir() else root
    return [folder for folder in parent.iterdir() if (folder / MANIFEST).exists() and _is_version(folder.name)]


def _without_versions(root: Path) -> str:
    """Why there is nothing to serve at `root`, and what to serve instead if it holds runs or models."""
    inside = []
    for folder in sorted(root.iterdir()):
        with suppress(OSError):
            if folder.is_dir() and _folders_in(folder):
                inside.append(folder)
    if not inside:
        return f"{root}: no model directory in it; train first, or copy one into it"
    noun = "run" if all(Run(folder).checkpoints_folder.is_dir() for folder in inside) else "model"
    names = shorten(", ".join(folder.name for folder in inside), 300)
    paths = shorten(" ".join(map(str, inside)), 300)
    return f"{root} holds the {noun}{'s' if len(inside) > 1 else ''} {names}; serve {paths}"


def _is_version(name: str) -> bool:
    return bool(_VERSION.fullmatch(name)) and not name.endswith(_INCOMPLETE)


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Orders names as a person does: v9 before v10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]
