"""Files of lines or records, cut into blocks of whole ones: what is found by one pass over a file and then remembered.

A plain file is read where a block stands. A gzip file cannot be: it is one block, read whole.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from isal import igzip, isal_zlib

from recap.errors import DataError

BLOCK_BYTES = 16 << 20
"""Bytes of a block, or the little more that its last line or record takes."""


@dataclass(frozen=True)
class Block:
    """Whole lines or records of a file."""

    offset: int
    length: int
    rows: int
    first_row: int


def is_gzip(file: str) -> bool:
    """Whether a file is compressed, by its first two bytes. Raises DataError where it cannot be read."""
    try:
        with open(file, "rb") as stream:
            return stream.read(2) == b"\x1f\x8b"
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror})") from None


def read_bytes(file: str, offset: int = 0, length: int = -1) -> bytes:
    """`length` bytes of what a file holds, uncompressed; below 0 all. Raises DataError where it is cut short."""
    try:
        with open(file, "rb") as stream:
            if is_gzip(file):
                whole = bytes(igzip.decompress(stream.read()))  # type: ignore[no-untyped-call]
                data = whole[offset : offset + length] if length >= 0 else whole[offset:]
            else:
                stream.seek(offset)
                data = stream.read(length)
    except (OSError, EOFError, isal_zlib.error) as error:  # type: ignore[misc]
        raise DataError(f"{file}: cannot be read ({error})") from None
    if len(data) < length:
        raise DataError(f"{file}: ends at byte {offset + len(data):,}, in the middle of what it held before")
    return data


@lru_cache(maxsize=4096)
def first_line(file: str, modified: int, size: int) -> bytes:
    """The first line of a file, with the line break that may be missing. Raises DataError."""
    if is_gzip(file):
        text = read_bytes(file)
        line = text[: _after_line(text, 0)]
    else:
        try:
            with open(file, "rb") as stream:
                line = stream.readline()
        except OSError as error:
            raise DataError(f"{file}: cannot be read ({error.strerror})") from None
    return line if line.endswith(b"\n") else line + b"\n"


@lru_cache(maxsize=4096)
def line_blocks(file: str, modified: int, size: int, header: bool) -> tuple[Block, ...]:
    """The blocks of a file of lines, the first line left out if it is a `header`."""
    if is_gzip(file):
        text = read_bytes(file)
        start = _after_line(text, 0) if header else 0
        rows = text.count(b"\n", start) + (len(text) > start and not text.endswith(b"\n"))
        return (Block(start, len(text) - start, rows, 0),) if rows else ()
    return tuple(_plain_line_blocks(file, header=header))


def _plain_line_blocks(file: str, *, header: bool) -> Iterator[Block]:
    first_row = 0
    try:
        with open(file, "rb") as stream:
            offset = len(stream.readline()) if header else 0
            while True:
                piece = stream.read(BLOCK_BYTES)
                if not piece:
                    return
                piece += stream.readline() if not piece.endswith(b"\n") else b""
                rows = piece.count(b"\n") + (not piece.endswith(b"\n"))
                yield Block(offset, len(piece), rows, first_row)
                offset, first_row = offset + len(piece), first_row + rows
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror})") from None


def _after_line(text: bytes, start: int) -> int:
    end = text.find(b"\n", start)
    return len(text) if end < 0 else end + 1
