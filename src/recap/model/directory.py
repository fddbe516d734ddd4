"""Directories that are whole or absent, and verified when opened.

A directory is written beside its place, every file synced, listed with its sha256 in `manifest.json`, and renamed.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from recap.errors import CheckpointError

MANIFEST = "manifest.json"
_UNFINISHED = ".unfinished"


@contextmanager
def whole_directory(path: Path) -> Iterator[Path]:
    """Give a folder to write into; it becomes `path` when the block ends well, and vanishes when it fails."""
    temporary = path.with_name(path.name + _UNFINISHED)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        files = sorted(file for file in temporary.rglob("*") if file.is_file())
        listed = {file.relative_to(temporary).as_posix(): _digest(file) for file in files}
        (temporary / MANIFEST).write_text(json.dumps({"sha256": listed}, indent=1) + "\n")
        for file in [*files, temporary / MANIFEST]:
            _sync(file)
        for folder in [*(each for each in temporary.rglob("*") if each.is_dir()), temporary]:
            _sync(folder)
        if path.exists():
            shutil.rmtree(path)
        temporary.rename(path)
        _sync(path.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def verify(path: Path) -> None:
    """Raise CheckpointError unless every file the manifest lists is there, byte for byte."""
    try:
        listed = json.loads((path / MANIFEST).read_text())["sha256"]
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no {MANIFEST}; this is no model directory or checkpoint") from None
    except (OSError, ValueError, KeyError, TypeError):
        raise CheckpointError(f"{path / MANIFEST}: damaged; use another checkpoint") from None
    for name, digest in listed.items():
        file = path / name
        if not file.is_file():
            raise CheckpointError(f"{file}: missing; the directory is not whole, use another checkpoint")
        if _digest(file) != digest:
            raise CheckpointError(f"{file}: damaged (its sha256 is not the manifest's); use another checkpoint")


def _digest(file: Path) -> str:
    digest = sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
