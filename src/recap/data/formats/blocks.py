"""Block indexes, the chunks of formats without row groups: where blocks of complete lines or records are in a file.

An index takes one pass over the file and is then cached. Gzip has no random access, so a gzip file is one block.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from recap.data.formats.content import Damaged, is_gzip, pieces, unreadable

BLOCK_BYTES = 16 << 20
"""Approximate size of a block, which ends with a complete line or record."""


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


def block_bytes(file: str) -> float:
    """The block size for a file; infinite for gzip, which is one block."""
    return math.inf if is_gzip(file) else BLOCK_BYTES


@lru_cache(maxsize=4096)
def first_line(file: str, modified: int, size: int) -> bytes:
    """The first line of a file, with a line break even if the file has none. Raises DataError."""
    line = b""
    try:
        for piece in pieces(file, 1 << 16):
            line += piece
            if b"\n" in piece:
                break
    except Damaged as error:
        raise unreadable(file, error) from None
    return line.partition(b"\n")[0] + b"\n"


def index_lines(content: Iterable[bytes], size: float, *, header: bool) -> BlockIndex:
    """The blocks, of about `size` bytes, of the lines in `content`; with `header`, the first line is not a row."""
    blocks: list[Block] = []
    offset = read = rows = first_row = 0  # `offset` and `rows` are of the block not ended yet
    in_header = header
    last_byte = b"\n"
    for piece in content:
        start = 0
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
