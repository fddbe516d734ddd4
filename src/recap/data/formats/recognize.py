"""Recognizes the format of a file by its first bytes, for files with a wrong extension or none."""

import json
import re
from contextlib import suppress
from dataclasses import dataclass

from recap.config.data import SourceKind
from recap.data.formats.content import Damaged, pieces
from recap.data.formats.object_stores import reason
from recap.data.formats.tfrecord.records import HEAD, record_length
from recap.errors import DataError

_HEAD_BYTES = 1 << 16
_MAGIC: list[tuple[bytes, SourceKind | None, str]] = [
    (rb"PAR1", "parquet", "Parquet"),
    (rb"ARROW1", "arrow", "Arrow IPC"),
    (rb"\xff\xff\xff\xff", None, "an Arrow IPC stream, which is not a file of record batches"),
    (rb"FEA1", None, "Feather version 1"),
    (rb"ORC[\x00-\x1f\x80-\xff]", None, "ORC"),
    (rb"Obj\x01", None, "Avro"),
    (rb"\x93NUMPY", None, "a NumPy array"),
    (rb"\x89HDF\r\n", None, "HDF5"),
    (rb"SQLite format 3\x00", None, "an SQLite database"),
    (rb"PK\x03\x04", None, "a zip archive, as Excel and NumPy write"),
    (rb"BZh[1-9]1AY&SY", None, "bzip2, which is not supported; use gzip"),
    (rb"\x28\xb5\x2f\xfd", None, "zstd, which is not supported for whole files; use gzip"),
    (rb"\xfd7zXZ\x00", None, "xz, which is not supported; use gzip"),
]
_DELIMITERS = {",": "comma", "\t": "tab", ";": "semicolon", "|": "bar"}


@dataclass(frozen=True)
class Content:
    """What the first bytes of a file are."""

    kind: SourceKind | None
    """None for a format that recap does not read."""
    noun: str
    """For messages."""
    certain: bool = True
    """False for text that is CSV if anything."""

    @property
    def advice(self) -> str:
        """What to do with a file that is read as another format."""
        if self.kind is None:
            return "convert it to Parquet, Arrow IPC, CSV, JSON lines or TFRecord"
        return f"rename it so that it ends in .{self.kind}, or set 'kind: {self.kind}' for its source"


def recognize(file: str) -> Content | None:
    """What a file holds, plain or gzip; None if it is empty or unknown. Raises DataError if it cannot be read."""
    head = b""
    with suppress(Damaged):
        for piece in pieces(file, _HEAD_BYTES):
            head += piece
            if len(head) >= _HEAD_BYTES:
                break
    for pattern, kind, noun in _MAGIC:
        if re.match(pattern, head):
            return Content(kind, noun)
    with suppress(Damaged):
        if len(head) >= HEAD:
            record_length(head[:HEAD])
            return Content("tfrecord", "TFRecord")
    return _recognize_text(head)


def _recognize_text(head: bytes) -> Content | None:
    line = head.lstrip().partition(b"\n")[0]
    with suppress(ValueError, RecursionError):
        if isinstance(json.loads(line), dict):
            return Content("jsonl", "JSON lines")
    if head.lstrip()[:1] == b"[" and re.match(rb"\[\s*(\{|$)", head.lstrip()):
        return Content(None, "a JSON array; write one object per line instead", certain=False)
    text = line.decode(errors="replace")
    if not text or "\0" in text or text.count("\ufffd") > 1:
        return None
    delimiter = max(_DELIMITERS, key=text.count)
    if not text.count(delimiter):
        return Content("csv", "text of one column", certain=False)
    return Content("csv", f"CSV with {_DELIMITERS[delimiter]}s between values", certain=False)


def check_content(file: str, kind: SourceKind, name: str) -> None:
    """Raise DataError if a file that is read as format `kind`, called `name`, is certainly of another."""
    content = recognize(file)
    if content is not None and content.certain and content.kind != kind:
        raise DataError(f"{file}: is read as {name}, but it looks like {content.noun}; {content.advice}")


def not_readable(file: str, name: str, error: Exception) -> DataError:
    """The error for a file that is not of the format `name`."""
    content = recognize(file)
    hint = "" if content is None or content.noun == name else f". It looks like {content.noun}: {content.advice}"
    return DataError(f"{file}: not readable as {name} ({reason(error).rstrip('.')}){hint}")
