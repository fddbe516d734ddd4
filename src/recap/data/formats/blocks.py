"""Indexes of files of lines or records: blocks of complete rows, found in one pass over a file and then cached.

A plain file is read from the offset of a block. A gzip file has no random access: it is one block.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from recap.data.formats.inflate import Damaged, is_gzip, pieces, unreadable

BLOCK_BYTES = 16 << 20
"""Size of a block, up to the length of its last line or record."""


@dataclass(frozen=True)
class Block:
    """Complete lines or records of a file."""

    offset: int
    length: int
    rows: int
    first_row: int


@dataclass(frozen=True)
class BlockIndex:
    """The blocks of a file, and the error behind them if the end of the file is torn."""

    blocks: tuple[Block, ...]
    torn: str | None = None

    @property
    def rows(self) -> int:
        """Rows of all blocks."""
        return sum(block.rows for block in self.blocks)


def block_bytes(file: str) -> float:
    """The block size for a file; infinite for gzip, which is one block."""
    return math.inf if is_gzip(file) else BLOCK_BYTES


@lru_cache(maxsize=4096)
def first_line(file: str, modified: int, size: int) -> bytes:
    """The first line of a file, always with a line break. Raises DataError."""
    line = b""
    try:
        for piece in pieces(file, 1 << 16):
            line += piece
            if b"\n" in piece:
                break
    except Damaged as error:
        raise unreadable(file, error) from None
    return line[: line.find(b"\n")] + b"\n" if b"\n" in line else line + b"\n"


def index_lines(parts: Iterable[bytes], size: float, *, header: bool) -> BlockIndex:
    """The blocks, of about `size` bytes, of the lines in `parts`; with `header`, the first line is not a row."""
    blocks: list[Block] = []
    offset = seen = rows = first_row = 0
    last = b"\n"
    for part in parts:
        start = 0
        if header:
            start = part.find(b"\n") + 1
            offset = seen + (start or len(part))
            header = not start
        if not header:
            end = part.rfind(b"\n") + 1 if seen + len(part) - offset >= size else 0
            if end > start:
                rows += part.count(b"\n", start, end)
                blocks.append(Block(offset, seen + end - offset, rows, first_row))
                offset, first_row, rows, start = seen + end, first_row + rows, 0, end
            rows += part.count(b"\n", start)
        seen, last = seen + len(part), part[-1:]
    rows += last != b"\n" and not header
    if rows:
        blocks.append(Block(offset, seen - offset, rows, first_row))
    return BlockIndex(tuple(blocks))
