"""Block indexes, the chunks of formats without row groups: where blocks of complete lines or records are in a file.

An index takes one pass over the file and is then cached. Gzip has no random access, so its blocks are large: to read
one, the file is decompressed from the start.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from recap.data.formats.content import Damaged, is_gzip, pieces, unreadable
from recap.errors import DataError

BLOCK_BYTES = 16 << 20
"""Approximate size of a block, which ends with a complete line or record."""
GZIP_BLOCK_BYTES = 1 << 30
"""The same for gzip, in bytes of uncompressed content. Most files are one block."""
MAX_LINE_BYTES = 64 << 20
"""Maximum length of a line, which bounds memory in files that are no text."""


class LongLine(ValueError):
    """A line is longer than `MAX_LINE_BYTES`."""

    def __init__(self, line: int) -> None:
        """`line`: its number, from 1."""
        super().__init__(line)
        self.line = line


@dataclass(frozen=True)
class Block:
    """Complete lines or records of a file."""

    offset: int
    """Bytes of uncompressed content before it."""
    length: int
    """Bytes of uncompressed content."""
    rows: int
    first_row: int


@dataclass(frozen=True)
class BlockIndex:
    """The blocks of a file, and the error after the last one if the end of the file is torn."""

    blocks: tuple[Block, ...]
    torn: str | None = None

    @property
    def rows(self) -> int:
        """The number of rows in all blocks."""
        return sum(block.rows for block in self.blocks)


def block_bytes(file: str) -> int:
    """The block size for a file, in bytes of uncompressed content."""
    return GZIP_BLOCK_BYTES if is_gzip(file) else BLOCK_BYTES


@lru_cache(maxsize=4096)
def first_line(file: str, modified: int, size: int) -> bytes:
    """The first line of a file, with a line break even if the file has none. Raises DataError."""
    parts: list[bytes] = []
    length = 0
    try:
        for piece in pieces(file, 1 << 16):
            part, line_break, _ = piece.partition(b"\n")
            parts.append(part)
            length += len(part)
            if length > MAX_LINE_BYTES:
                raise long_line(file, LongLine(1))
            if line_break:
                break
    except Damaged as error:
        raise unreadable(file, error) from None
    return b"".join(parts) + b"\n"


def long_line(file: str, error: LongLine) -> DataError:
    """The error for a file with a line that is too long."""
    return DataError(
        f"{file}:{error.line}: the line is longer than {MAX_LINE_BYTES:,} bytes, which is the limit; is this file text?"
    )


def index_lines(content: Iterable[bytes], size: int, *, header: bool) -> BlockIndex:
    """The blocks, of about `size` bytes, of the lines in `content`; with `header`, the first line is not a row.

    Raises LongLine.
    """
    blocks: list[Block] = []
    line_start = 0  # of the line that is not complete yet
    offset = read = rows = first_row = 0  # `offset` and `rows` are of the block not ended yet
    in_header = header
    last_byte = b"\n"
    for piece in content:
        start = 0
        first_break = piece.find(b"\n")
        if read + (first_break if first_break >= 0 else len(piece)) - line_start > MAX_LINE_BYTES:
            raise LongLine(1 if in_header else first_row + rows + header + 1)
        if first_break >= 0:
            line_start = read + piece.rfind(b"\n") + 1
        if in_header:
            start = piece.find(b"\n") + 1
            in_header = start == 0
            offset = read + (len(piece) if in_header else start)
        if not in_header:
            end = piece.rfind(b"\n") + 1 if read + len(piece) - offset >= size else 0
            if end > start:
                rows += piece.count(b"\n", start, end)
                blocks.append(Block(offset, read + end - offset, rows, first_row))
                offset, first_row, rows, start = read + end, first_row + rows, 0, end
            rows += piece.count(b"\n", start)
        read, last_byte = read + len(piece), piece[-1:]
    if last_byte != b"\n" and not in_header:  # a last line without a line break
        rows += 1
    if rows:
        blocks.append(Block(offset, read - offset, rows, first_row))
    return BlockIndex(tuple(blocks))
