"""Files in object stores and remote file systems, named by URLs; read by pyarrow or, for other schemes, by fsspec.

The text after `scheme://authority/` is the key, verbatim: nothing is decoded, and there are no parameters.
Endpoints and credentials come from the environment variables of each library (AWS_ENDPOINT_URL, AWS_PROFILE…).
"""

import re
from concurrent.futures import Future
from contextlib import suppress
from functools import lru_cache
from io import RawIOBase
from threading import Thread
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.fs

from recap.errors import DataError

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/]*)/*")
_WILDCARD = re.compile(r"[*?[]")
CONNECT_SECONDS = 10.0
"""Time for the first answer of a store."""
_ANY_KEY = "recap"
"""Requested to see whether a store answers. A request for its root without access would end the process in Azure's
library."""
_PYARROW_SCHEMES = {"s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs"}


class Store(NamedTuple):
    """The file system for URLs of one scheme and authority, and the path of their root in it."""

    url: str
    system: pa.fs.FileSystem
    root: str

    def url_of(self, path: str) -> str:
        """The URL of a path in the file system."""
        return f"{self.url}/{path.removeprefix(self.root).lstrip('/')}"


def is_remote(file: str) -> bool:
    """Whether a file is named by a URL; `file://` is local."""
    return _URL.match(file) is not None and not file.startswith("file://")


def locate(url: str) -> tuple[Store, str]:
    """The store of a URL, and the path in that store. Raises DataError if the store cannot be opened."""
    match = _URL.match(url)
    assert match is not None
    key = url[match.end() :].rstrip("/")
    store = _open_store(match[1].lower(), match[2])
    return store, "/".join(filter(None, (store.root, key)))


@lru_cache(maxsize=64)
def _open_store(scheme: str, authority: str) -> Store:
    """Cached, so that all files and threads share the connections of a store. Raises DataError if it is silent."""
    url = f"{scheme}://{authority}"
    opened: Future[Store] = Future()
    # A thread that nobody waits for at the end: the libraries retry for minutes and cannot be interrupted.
    Thread(target=_connect, args=(opened, url, scheme), daemon=True, name="recap-store").start()
    try:
        return opened.result(CONNECT_SECONDS)
    except TimeoutError:
        raise DataError(
            f"{url}: does not answer within {CONNECT_SECONDS:g} seconds; check the network, the endpoint and the "
            "credentials"
        ) from None


def _connect(opened: Future[Store], url: str, scheme: str) -> None:
    """Open a store and wait for its first answer, whatever it is: the requests of a job report errors."""
    try:
        store = _file_system(url, scheme)
        with suppress(Exception):
            store.system.get_file_info("/".join(filter(None, (store.root, _ANY_KEY))))
        opened.set_result(store)
    except BaseException as error:
        opened.set_exception(error)


def _file_system(url: str, scheme: str) -> Store:
    try:
        if scheme in _PYARROW_SCHEMES:
            system, root = pa.fs.FileSystem.from_uri(url)
        else:
            from fsspec.core import url_to_fs  # takes 0.1 s to load

            wrapped, root = url_to_fs(url)
            system = pa.fs.PyFileSystem(pa.fs.FSSpecHandler(wrapped))
    except ImportError as error:
        raise DataError(f"{url}: the package that reads it is not installed; install it ({reason(error)})") from None
    except Exception as error:  # each library raises its own errors
        raise DataError(f"{url}: cannot be opened ({reason(error)})") from None
    return Store(url, system, root.rstrip("/"))


def remote_file(url: str) -> pa.NativeFile:
    """Open a file of a store for random access. Raises OSError."""
    store, path = locate(url)
    try:
        if not isinstance(store.system, pa.fs.PyFileSystem):
            return store.system.open_input_file(path)
        return pa.PythonFile(_OsErrors(store.system.handler.fs.open(path, "rb")), mode="r")
    except Exception as error:
        raise _as_os_error(error) from None


def remote_stamp(url: str) -> tuple[int, int]:
    """Modification time in ns (0 if the store has none) and size in bytes. Raises OSError."""
    info = _file_info(url)
    if info.type != pa.fs.FileType.File:
        raise FileNotFoundError(2, "No such file or directory")
    return info.mtime_ns or 0, -1 if info.size is None else info.size


def remote_glob(pattern: str) -> list[str]:
    """The files of a store that match a glob; `**` must be a whole segment.

    Raises DataError if the store cannot be listed.
    """
    store, path = locate(pattern)
    try:
        if store.system.get_file_info(path).type == pa.fs.FileType.File:
            return [pattern]
        files = _matching_files(store.system, path) if _WILDCARD.search(path) else []
        if not files and store.system.get_file_info(store.root).type == pa.fs.FileType.NotFound:
            raise DataError(f"{pattern}: matches no file: {store.url} does not exist; check its name and the endpoint")
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{pattern}: cannot be listed ({reason(error)})") from None
    return [store.url_of(file) for file in files]


def _matching_files(system: pa.fs.FileSystem, pattern: str) -> list[str]:
    """The files that match, from one listing of the folder before the first wildcard.

    fsspec's own glob would list each folder separately.
    """
    from fsspec.utils import glob_translate  # takes 0.1 s to load

    folder = _WILDCARD.split(pattern)[0].rpartition("/")[0]
    deep = "/" in pattern[len(folder) + 1 :] or "**" in pattern
    matches = re.compile(glob_translate(pattern.lstrip("/"))).match  # some file systems begin paths with a slash
    listing = system.get_file_info(pa.fs.FileSelector(folder, allow_not_found=True, recursive=deep))
    return [info.path for info in listing if info.type == pa.fs.FileType.File and matches(info.path.lstrip("/"))]


def is_remote_folder(url: str) -> bool:
    """Whether a URL names a folder."""
    try:
        return bool(_file_info(url).type == pa.fs.FileType.Directory)
    except OSError:
        return False


def reason(error: BaseException) -> str:
    """The message of an error, on one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


def _file_info(url: str) -> pa.fs.FileInfo:
    store, path = locate(url)
    try:
        return store.system.get_file_info(path)
    except Exception as error:
        raise _as_os_error(error) from None


def _as_os_error(error: Exception) -> OSError:
    return error if isinstance(error, OSError) else OSError(reason(error))


class _OsErrors(RawIOBase):
    """A file of fsspec that raises only OSError."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def read(self, size: int = -1) -> bytes:
        try:
            return bytes(self.file.read(size))
        except Exception as error:
            raise _as_os_error(error) from None

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self.file.seek(offset, whence))

    def tell(self) -> int:
        return int(self.file.tell())

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self.file.close()
        super().close()
