"""Where URLs lead: object stores and the like, by pyarrow where it knows them and by fsspec where it does not.

What stands behind `scheme://authority/` is a key as it is: nothing in it is decoded, and there are no parameters.
Endpoints and credentials come from the environment, as the libraries have it (AWS_ENDPOINT_URL, AWS_PROFILE…).
"""

import re
from fnmatch import fnmatchcase
from functools import lru_cache
from io import RawIOBase
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.fs

from recap.errors import DataError

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/]*)/*")
_MAGIC = re.compile(r"[*?[]")
_BY_PYARROW = {"s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs"}


class Store(NamedTuple):
    """A file system, and where in it all URLs of one scheme and authority begin."""

    url: str
    system: pa.fs.FileSystem
    root: str

    def url_of(self, path: str) -> str:
        """The URL of a path of the file system."""
        return f"{self.url}/{path.removeprefix(self.root).lstrip('/')}"


def is_remote(file: str) -> bool:
    """Whether a file is named by a URL; `file://` is local."""
    return _URL.match(file) is not None and not file.startswith("file://")


def locate(url: str) -> tuple[Store, str]:
    """The store of a URL, and the path that it has there. Raises DataError where the store cannot be opened."""
    match = _URL.match(url)
    assert match is not None
    key = url[match.end() :].rstrip("/")
    store = _open_store(match[1].lower(), match[2])
    return store, "/".join(filter(None, (store.root, key)))


@lru_cache(maxsize=64)
def _open_store(scheme: str, authority: str) -> Store:
    """One for all files below it, and for all threads: each keeps its connections."""
    url = f"{scheme}://{authority}"
    try:
        if scheme in _BY_PYARROW:
            system, root = pa.fs.FileSystem.from_uri(url)
        else:
            from fsspec.core import url_to_fs  # loads slowly

            other, root = url_to_fs(url)
            system = pa.fs.PyFileSystem(pa.fs.FSSpecHandler(other))
    except ImportError as error:
        raise DataError(f"{url}: a package that reads it is missing ({reason(error)})") from None
    except Exception as error:  # libraries of stores raise what they like
        raise DataError(f"{url}: cannot be opened ({reason(error)})") from None
    return Store(url, system, root.rstrip("/"))


def remote_file(url: str) -> pa.NativeFile:
    """A file of a store, to be read at any place. Raises OSError."""
    store, path = locate(url)
    try:
        if not isinstance(store.system, pa.fs.PyFileSystem):
            return store.system.open_input_file(path)
        return pa.PythonFile(_OsErrors(store.system.handler.fs.open(path, "rb")), mode="r")
    except Exception as error:
        raise _as_os_error(error) from None


def remote_stamp(url: str) -> tuple[int, int]:
    """When a file was changed, or 0 where its store does not tell, and how large it is. Raises OSError."""
    info = _look(url)
    if info.type != pa.fs.FileType.File:
        raise FileNotFoundError(2, "No such file or directory")
    return info.mtime_ns or 0, -1 if info.size is None else info.size


def remote_glob(pattern: str) -> list[str]:
    """The files of a store that a pattern matches, as `glob` has it. Raises DataError where the store refuses.

    The folder before the first segment that is a pattern is listed once, whole if what is behind it has folders too.
    """
    store, path = locate(pattern)
    try:
        if store.system.get_file_info(path).type == pa.fs.FileType.File:
            return [pattern]
        parts = path.removeprefix(store.root).strip("/").split("/")
        plain = next((place for place, part in enumerate(parts) if _MAGIC.search(part)), len(parts))
        found: list[str] = []
        if plain < len(parts):
            folder = "/".join(filter(None, (store.root, *parts[:plain])))
            deep = len(parts) > plain + 1 or parts[-1] == "**"
            selector = pa.fs.FileSelector(folder, allow_not_found=True, recursive=deep)
            files = [info.path for info in store.system.get_file_info(selector) if info.type == pa.fs.FileType.File]
            names = (file.removeprefix(folder).strip("/").split("/") for file in files)
            kept = [_matches(each, parts[plain:]) for each in names]
            found = [store.url_of(file) for file, keep in zip(files, kept, strict=True) if keep]
        if not found and store.system.get_file_info(store.root).type == pa.fs.FileType.NotFound:
            raise DataError(f"{pattern}: matches no file: there is no {store.url}; check its name, and the endpoint")
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{pattern}: cannot be listed ({reason(error)})") from None
    return found


def is_remote_folder(url: str) -> bool:
    """Whether a URL names a folder."""
    try:
        return bool(_look(url).type == pa.fs.FileType.Directory)
    except OSError:
        return False


def reason(error: BaseException) -> str:
    """Why something could not be read, in one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


def _look(url: str) -> pa.fs.FileInfo:
    store, path = locate(url)
    try:
        return store.system.get_file_info(path)
    except Exception as error:
        raise _as_os_error(error) from None


def _matches(names: list[str], patterns: list[str]) -> bool:
    """Whether a path matches, segment by segment: `**` is any folders, and what begins with a dot must be asked for."""
    if not names or not patterns:
        return not names and not patterns
    name, pattern = names[0], patterns[0]
    hidden = name.startswith(".") and not pattern.startswith(".")
    if patterns == ["**"]:
        return not any(each.startswith(".") for each in names)
    if pattern == "**":
        return _matches(names, patterns[1:]) or (not hidden and _matches(names[1:], patterns))
    return not hidden and fnmatchcase(name, pattern) and _matches(names[1:], patterns[1:])


def _as_os_error(error: Exception) -> OSError:
    return error if isinstance(error, OSError) else OSError(reason(error))


class _OsErrors(RawIOBase):
    """A file whose errors are OSErrors, whatever its library raises."""

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
