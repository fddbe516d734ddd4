"""Reads the uncompressed content of plain and gzip files, in pieces or by byte range."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from isal import igzip_lib

from recap.data.formats.files import open_file
from recap.data.formats.object_stores import reason
from recap.errors import DataError

_READ_BYTES = 1 << 16
"""Bytes read from a gzip file at a time."""
_PIECE_BYTES = 1 << 18
"""Size of a decompressed piece; it fits the CPU cache."""
_FINE_PIECE_BYTES = 1 << 9
"""Size of a piece near damage; the piece with the damage is lost."""

_MAX_SPARE = 4
_MAX_SPARE_BYTES = 1 << 28
"""Buffers up to this size are kept to be used again."""
_SPARE: list[npt.NDArray[np.uint8]] = []
"""Buffers to reuse: page faults in new memory take a quarter of the time of decompressing into it."""


class Damaged(ValueError):
    """A gzip stream or a record is damaged; what was read before it is valid."""


def is_gzip(file: str) -> bool:
    """Whether a file begins with the two magic bytes of gzip. Raises DataError if it cannot be read."""
    try:
        with open_file(file) as stream:
            return bytes(stream.read(2)) == b"\x1f\x8b"
    except OSError as error:
        raise unreadable(file, error) from None


def pieces(file: str, size: int) -> Iterator[bytes]:
    """The uncompressed content of a file in pieces of `size` bytes; for gzip, in pieces of any size.

    Raises DataError if the file cannot be read, and Damaged after the valid pieces of a damaged gzip file.
    """
    compressed = is_gzip(file)
    yielded = 0
    try:
        with open_file(file) as stream:
            if not compressed:
                while piece := stream.read(size):
                    yield piece
                return
            try:
                for piece in _inflate(stream, _PIECE_BYTES):
                    yield piece
                    yielded += len(piece)
            except Damaged:  # decompress again in fine pieces, to yield more of the content before the damage
                stream.seek(0)
                for piece in _inflate(stream, _FINE_PIECE_BYTES):
                    yielded -= len(piece)
                    if yielded < 0:
                        yield piece[yielded:]
                        yielded = 0
    except OSError as error:
        raise unreadable(file, error) from None


@contextmanager
def borrowed_range(file: str, offset: int, length: int) -> Iterator[npt.NDArray[np.uint8]]:
    """`length` bytes of the uncompressed content from `offset`, in a buffer that is reused after the `with` block.

    Raises DataError if the file cannot be read or is too short.
    """
    buffer = _SPARE.pop() if _SPARE else np.empty(0, np.uint8)
    if len(buffer) < length:
        buffer = np.empty(length, np.uint8)
    try:
        _fill(file, offset, buffer[:length])
        yield buffer[:length]
    finally:
        if len(_SPARE) < _MAX_SPARE and len(buffer) <= _MAX_SPARE_BYTES:
            _SPARE.append(buffer)


def read_range(file: str, offset: int, length: int) -> bytes:
    """A copy of `length` bytes of the uncompressed content from `offset`. Raises DataError."""
    with borrowed_range(file, offset, length) as buffer:
        return buffer.tobytes()


def unreadable(file: str, error: Exception) -> DataError:
    """The error for a file that cannot be read."""
    return DataError(f"{file}: cannot be read ({reason(error)})")


def _fill(file: str, offset: int, target: npt.NDArray[np.uint8]) -> None:
    """Fill `target` with the uncompressed content from `offset`. Raises DataError if the file is too short."""
    if not is_gzip(file):
        try:
            with open_file(file) as stream:
                stream.seek(offset)
                position = stream.readinto(target)
        except OSError as error:
            raise unreadable(file, error) from None
    else:
        position = _inflate_into(file, offset, target)
    if position < len(target):
        raise DataError(f"{file}: ends at byte {offset + position:,}, but was longer when this job listed it")


def _inflate_into(file: str, offset: int, target: npt.NDArray[np.uint8]) -> int:
    position = -offset
    try:
        for piece in pieces(file, 0):
            end = position + len(piece)
            if end > 0:
                part = np.frombuffer(piece, np.uint8)[max(-position, 0) :]
                begin = max(position, 0)
                target[begin:end] = part[: len(target) - begin]
            position = end
            if position >= len(target):
                break
    except Damaged as error:
        raise unreadable(file, error) from None
    return max(position, 0)


def _inflate(stream: pa.NativeFile, size: int) -> Iterator[bytes]:
    """The content of all members of a gzip file, in pieces of up to `size` bytes.

    Zero bytes between and after the members are skipped.
    """
    compressed = b""
    while True:
        compressed = compressed.lstrip(b"\0")
        while not compressed:
            chunk = stream.read(_READ_BYTES)
            if not chunk:
                return
            compressed = chunk.lstrip(b"\0")
        compressed = yield from _inflate_member(stream, compressed, size)


def _inflate_member(stream: pa.NativeFile, compressed: bytes, size: int) -> Generator[bytes, None, bytes]:
    """The content of the member that begins with `compressed`; returns the bytes read after its end."""
    member = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
    while not member.eof:
        if member.needs_input and not compressed:
            compressed = stream.read(_READ_BYTES)
            if not compressed:
                raise Damaged("the gzip stream is cut short")
        try:
            piece = member.decompress(compressed, size)
        except igzip_lib.error as error:  # type: ignore[misc]
            raise Damaged(f"the gzip stream is damaged: {error}") from None
        compressed = b""
        if piece:
            yield piece
    return member.unused_data
