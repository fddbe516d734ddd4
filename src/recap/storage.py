"""Crash-safe writing: atomic files, atomic directories, and append-only files.

A directory is written under a temporary name beside its own. Each file is synced and listed with its sha256 in
`manifest.json`; then the directory is renamed. Before a directory is deleted it is renamed too, so that a partly
deleted one is never taken for a complete one. `verify` checks a directory when it is opened.
"""

import errno
import fcntl
import json
import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from itertools import count
from pathlib import Path

from safetensors import SafetensorError

from recap.errors import CheckpointError, InputError, RunError

MANIFEST = "manifest.json"
FORMAT = 2
"""Version of the directories that this recap writes. In 1, which its manifest does not state, ids that are decimal
digits were hashed as text."""
_MAX_MANIFEST_BYTES = 1 << 24
_UNFINISHED = ".unfinished"
"""Suffix of a file or directory that is being written, or a directory that is being deleted."""
_REPLACED = ".replaced"
"""Suffix of a complete directory that is being replaced."""
_DAMAGED = ".damaged"
_BLOCK_BYTES = 1 << 24
"""Bytes per read when hashing. Large, because after each block the thread has to wait for the interpreter lock."""


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yield a temporary folder, which is renamed to `path` if the block succeeds and deleted if it fails.

    Raises RunError, which names the file that cannot be written.
    """
    temporary, replaced = _beside(path, _UNFINISHED), _beside(path, _REPLACED)
    shutil.rmtree(temporary, ignore_errors=True)
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
    try:
        yield temporary
        files = sorted(file for file in temporary.rglob("*") if file.is_file())
        listed = {file.relative_to(temporary).as_posix(): _digest(file) for file in files}
        with writing(temporary / MANIFEST) as manifest:
            manifest.write_text(_manifest_text(FORMAT, listed))
        _give_mode_of(temporary / MANIFEST, files)
        folders = [folder for folder in temporary.rglob("*") if folder.is_dir()]
        for entry in [*files, temporary / MANIFEST, *folders, temporary]:
            _sync(entry)
        if path.exists():
            shutil.rmtree(replaced, ignore_errors=True)
            path.rename(replaced)
        temporary.rename(path)
        _sync(path.parent)
        shutil.rmtree(replaced, ignore_errors=True)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


@contextmanager
def writing(file: Path) -> Iterator[Path]:
    """Turn an error in writing `file` into a RunError that names it."""
    try:
        yield file
    except (OSError, SafetensorError) as error:
        raise RunError(f"{file}: cannot be written ({failure(error)})") from error


def failure(error: Exception) -> str:
    """The message of a failed write: that of the system, without what Arrow puts around it."""
    number = error.errno if isinstance(error, OSError) else None
    return os.strerror(number) if number else str(error)


def remove_directory(path: Path) -> None:
    """Delete a directory; it is renamed first, so that no incomplete one stays under its name."""
    temporary = _beside(path, _UNFINISHED)
    shutil.rmtree(temporary, ignore_errors=True)
    path.rename(temporary)
    shutil.rmtree(temporary)


def set_aside(path: Path) -> Path:
    """Rename a damaged directory so that nothing opens it; return its new path."""
    names = (_beside(path, _DAMAGED + (f"-{number}" if number > 1 else "")) for number in count(1))
    return path.rename(next(name for name in names if not name.exists()))


def clear_leftovers(parent: Path) -> None:
    """Delete what killed processes left in `parent`, and restore a directory whose replacement was not finished."""
    for replaced in parent.glob("*" + _REPLACED):
        path = replaced.with_name(replaced.name.removesuffix(_REPLACED))
        if path.exists():
            remove_directory(replaced)
        else:
            replaced.rename(path)
    for unfinished in parent.glob("*" + _UNFINISHED):
        shutil.rmtree(unfinished)


@dataclass(frozen=True)
class Manifest:
    """What a directory says about itself."""

    format: int
    """See `FORMAT`."""
    files: Mapping[str, str]
    """Path of each file within the directory → its sha256."""


def verify(path: Path, *needed: str) -> Manifest:
    """The manifest of a directory. Raises CheckpointError unless it lists `needed`, and every file has its sha256.

    The directory may come from elsewhere: a path that leaves it is refused. Files that the manifest does not list are
    not verified, and must not be read.
    """
    manifest = read_manifest(path)
    for name in needed if manifest.format <= FORMAT else ():
        if name not in manifest.files:
            raise CheckpointError(f"{path / MANIFEST}: damaged (it does not list {name})")
    root = os.path.realpath(path)
    for name, digest in manifest.files.items():
        file = path / name
        if not _is_inside(name) or not Path(os.path.realpath(file)).is_relative_to(root):
            raise CheckpointError(f"{path / MANIFEST}: lists {name[:60]!r}, which is not in this directory")
        if not os.path.isfile(file):
            raise CheckpointError(f"{str(file)[:300]}: missing; the directory is incomplete")
        try:
            actual = _digest(file)
        except OSError as error:
            raise CheckpointError(f"{file}: cannot be read ({error.strerror})") from None
        if actual != digest:
            raise CheckpointError(f"{file}: damaged (its sha256 differs from the manifest)")
    return manifest


def read_manifest(path: Path) -> Manifest:
    """The manifest of a directory, whose files are not verified. Raises CheckpointError."""
    file = path / MANIFEST
    if not os.path.isfile(file):
        raise CheckpointError(f"{path}: no {MANIFEST}, so this is not a model directory or checkpoint")
    damaged = CheckpointError(f"{file}: damaged")
    try:
        content = json.loads(read_regular(file, _MAX_MANIFEST_BYTES))
    except (OSError, ValueError, RecursionError):
        raise damaged from None
    version = content.get("format", 1) if isinstance(content, dict) else None
    listed = content.get("sha256") if isinstance(content, dict) else None
    if type(version) is not int or version < 1 or not isinstance(listed, dict):
        raise damaged
    return Manifest(version, listed)


def check_format(path: Path, manifest: Manifest) -> None:
    """Raise CheckpointError if a later recap wrote the directory."""
    if manifest.format > FORMAT:
        raise CheckpointError(
            f"{path}: has format {manifest.format}, of a later recap; this one reads formats up to {FORMAT}. Update "
            "recap to open it"
        )


def add_file(path: Path, name: str, text: str) -> None:
    """Write file `name` into a complete directory, and list it in the manifest; replaces the one before.

    A process killed meanwhile leaves a complete directory: with the file before, with the new one, or without it. The
    other files keep their checksums, unverified. Raises RunError and CheckpointError.
    """
    with locked(path):  # two processes at once could list the checksum of a replaced file
        manifest, file = read_manifest(path), path / name
        with writing(file), atomic_write(file) as temporary:
            temporary.write_text(text, encoding="utf-8")
            _sync(temporary)
            if name in manifest.files:
                _list_files(path, manifest, {other: sha for other, sha in manifest.files.items() if other != name})
        _sync(path)
        _list_files(path, manifest, {**manifest.files, name: _digest(file)})


def remove_file(path: Path, name: str) -> None:
    """Delete file `name` of a complete directory, and take it off the manifest. Raises RunError and CheckpointError."""
    with locked(path):
        manifest = read_manifest(path)
        _list_files(path, manifest, {other: sha for other, sha in manifest.files.items() if other != name})
        with writing(path / name) as file:
            file.unlink(missing_ok=True)


@contextmanager
def locked(path: Path, busy: str | None = None) -> Iterator[None]:
    """Let no other process change the directory meanwhile; a killed process releases it.

    If one does, wait for it; or raise InputError with the text `busy`.
    """
    with writing(path):
        descriptor = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy is not None else 0))
        except BlockingIOError:
            raise InputError(f"{path}: {busy}") from None
        except OSError:  # a file system without locks: the command works, without this protection
            pass
        yield
    finally:
        os.close(descriptor)


def _list_files(path: Path, manifest: Manifest, files: Mapping[str, str]) -> None:
    """Replace the manifest of a directory by one of `files`, on disk when this returns."""
    with writing(path / MANIFEST) as file, atomic_write(file) as temporary:
        temporary.write_text(_manifest_text(manifest.format, files))
        _sync(temporary)
    _sync(path)


def _manifest_text(version: int, files: Mapping[str, str]) -> str:
    return json.dumps({"format": version, "sha256": dict(sorted(files.items()))}, indent=1) + "\n"


def _is_inside(name: str) -> bool:
    """Whether a relative path in a manifest stays in its directory, on any system."""
    strange = any(character in "\0\\:" or "\ud800" <= character <= "\udfff" for character in name)
    return bool(name) and not name.startswith("/") and ".." not in name.split("/") and not strange


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path, which is renamed to `path` if the block succeeds and deleted if it fails.

    At any moment `path` is the old file or the new one. An OSError of the block or the renaming is not converted.
    """
    temporary = _beside(path, _UNFINISHED)
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def remove_unfinished(path: Path) -> None:
    """Delete what a killed `atomic_write` of `path` left. Raises RunError."""
    with writing(_beside(path, _UNFINISHED)) as temporary:
        temporary.unlink(missing_ok=True)


def regular_status(path: str | Path) -> os.stat_result:
    """The status of a regular file.

    Raises OSError for a missing file, and for a folder, FIFO, socket or device: reading one may block or never end.
    """
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        kinds = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
        kind = kinds.get(stat.S_IFMT(status.st_mode), "a device")
        raise OSError(errno.EINVAL, f"is {kind}, not a regular file", str(path))
    return status


def read_regular(path: str | Path, max_bytes: int) -> bytes:
    """The content of a regular file of at most `max_bytes`. Raises OSError."""
    regular_status(path)
    with open(path, "rb") as stream:
        content = stream.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise OSError(errno.EFBIG, f"holds more than {max_bytes >> 20} MiB", str(path))
    return content


def replace_text(path: Path, text: str) -> None:
    """Replace the content of a text file atomically. Raises RunError, which names `path`."""
    with writing(path), atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def check_local(output: Path, option: str = "--output") -> None:
    """Raise InputError for a URL, which a Path turns into the name of a local folder, such as `s3:`."""
    if re.match(r"[A-Za-z][\w+.-]+:/", str(output)):
        raise InputError(f"{option}: {output} is a URL; write to a local folder, or to one where the store is mounted")


def check_not_an_input(outputs: Iterable[Path], files: Iterable[str | Path]) -> None:
    """Raise InputError if one of `outputs` is one of the input `files`, also through a link or another path."""
    inputs = {identity: file for file in files if (identity := _identity(file)) is not None}
    for output in outputs:
        identity = _identity(output)
        if identity in inputs:
            raise InputError(f"{inputs[identity]}: would be overwritten by its own output; choose another --output")


def _identity(file: str | Path) -> tuple[int, int] | None:
    """Device and inode of a local file; None if there is no such file, as for a URL."""
    try:
        status = os.stat(file)
    except (OSError, ValueError):  # ValueError: a name with a NUL
        return None
    return status.st_dev, status.st_ino


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _digest(file: Path) -> str:
    digest, block = sha256(), memoryview(bytearray(min(_BLOCK_BYTES, max(file.stat().st_size, 1))))
    with file.open("rb", buffering=0) as stream:
        while read := stream.readinto(block):
            digest.update(block[:read])
    return digest.hexdigest()


def _give_mode_of(file: Path, others: Iterable[Path]) -> None:
    """Let those read the other files who may read `file`: safetensors lets only the owner, whatever the umask."""
    mode = stat.S_IMODE(file.stat().st_mode)
    for other in others:
        if stat.S_IMODE(other.stat().st_mode) != mode:
            other.chmod(mode)


def _sync(path: Path) -> None:
    with writing(path):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class AppendOnlyFile:
    """A file to which data is only appended, completely or not at all; it is recreated if it was deleted."""

    def __init__(self, path: Path, header: bytes = b"") -> None:
        """`header`: the start of the file, written with the first data. Raises OSError."""
        self._path, self._header = path, header
        self._file = path.open("ab", buffering=0)

    def append(self, data: bytes) -> None:
        """Write all of `data`, or raise OSError and write nothing."""
        if not os.fstat(self._file.fileno()).st_nlink:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            recreated = self._path.open("ab", buffering=0)
            self._file.close()
            self._file = recreated
        end = self._file.seek(0, os.SEEK_END)
        if not end:
            data = self._header + data
        if self._file.write(data) < len(data):  # a full disk takes what fits, without an error
            self._file.truncate(end)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        self._file.close()
