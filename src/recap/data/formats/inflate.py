"""What files hold, plain or gzip, in pieces or from one place to another."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from isal import igzip_lib

from recap.data.formats.files import open_file
from recap.data.formats.filesystem import reason
from recap.errors import DataError

_COMPRESSED, _PIECE, _FINE = 1 << 16, 1 << 18, 1 << 9
"""Bytes that are read of a gzip file at once; those that come out at most, which stay in the processor's cache; and
those that come out at most before damage: a piece is lost whole."""

_SPARES = 4
_SPARE: list[npt.NDArray[np.uint8]] = []
"""Buffers to be used again: new memory from the system would cost a quarter of the time of inflating into it."""


class Damaged(ValueError):
    """What is wrong with a gzip stream; what came before it is as it was written."""


def is_gzip(file: str) -> bool:
    """Whether a file is compressed, by its first two bytes. Raises DataError where it cannot be read."""
    try:
        with open_file(file) as stream:
            return bytes(stream.read(2)) == b"\x1f\x8b"
    except OSError as error:
        raise unreadable(file, error) from None


def pieces(file: str, size: int) -> Iterator[bytes]:
    """What a file holds, uncompressed: pieces of `size` of a plain file, of a gzip file pieces of any size.

    Raises DataError where it cannot be read, and Damaged behind what is whole of a gzip file.
    """
    compressed = is_gzip(file)
    given = 0
    try:
        with open_file(file) as stream:
            if not compressed:
                while piece := stream.read(size):
                    yield piece
                return
            try:
                for piece in _inflate(stream, _PIECE):
                    yield piece
                    given += len(piece)
            except Damaged:
                stream.seek(0)
                for piece in _inflate(stream, _FINE):
                    given -= len(piece)
                    if given < 0:
                        yield piece[given:]
                        given = 0
    except OSError as error:
        raise unreadable(file, error) from None


@contextmanager
def borrowed_range(file: str, offset: int, length: int) -> Iterator[npt.NDArray[np.uint8]]:
    """`length` bytes of what a file holds, from `offset` on, uncompressed: to be copied from before the block is left.

    Raises DataError where the file is cut short.
    """
    buffer = _SPARE.pop() if _SPARE else np.empty(0, np.uint8)
    if len(buffer) < length:
        buffer = np.empty(length, np.uint8)
    try:
        _fill(file, offset, buffer[:length])
        yield buffer[:length]
    finally:
        if len(_SPARE) < _SPARES:
            _SPARE.append(buffer)


def read_range(file: str, offset: int, length: int) -> bytes:
    """The same to be kept."""
    with borrowed_range(file, offset, length) as found:
        return found.tobytes()


def unreadable(file: str, error: Exception) -> DataError:
    """The error for a file that cannot be read."""
    return DataError(f"{file}: cannot be read ({reason(error)})")


def _fill(file: str, offset: int, target: npt.NDArray[np.uint8]) -> None:
    """Put what a file holds from `offset` on into `target`. Raises DataError where there is less."""
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
        raise DataError(f"{file}: ends at byte {offset + position:,}, in the middle of what it held before")


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
    """The members of a gzip file one after the other, in pieces up to `size`; zeros may stand between and behind."""
    waiting = b""
    while True:
        while not (waiting := waiting.lstrip(b"\0")):
            waiting = stream.read(_COMPRESSED)
            if not waiting:
                return
        waiting = yield from _member(stream, waiting, size)


def _member(stream: pa.NativeFile, waiting: bytes, size: int) -> Generator[bytes, None, bytes]:
    """One member that begins with what is `waiting`; what was read behind it is returned."""
    member = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
    while not member.eof:
        if member.needs_input and not waiting:
            waiting = stream.read(_COMPRESSED)
            if not waiting:
                raise Damaged("the gzip stream breaks off")
        try:
            piece = member.decompress(waiting, size)
        except igzip_lib.error as error:  # type: ignore[misc]
            raise Damaged(f"the gzip stream is damaged: {error}") from None
        waiting = b""
        if piece:
            yield piece
    return member.unused_data
