"""Files of lines or records, cut into blocks of whole ones: what is found by one pass over a file and then remembered.

A plain file is read where a block stands. A gzip file cannot be: it is one block, read whole.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from recap.data.formats.inflate import Damaged, is_gzip, pieces, unreadable

BLOCK_BYTES = 16 << 20
"""Bytes of a block, or the little more that its last line or record takes."""


@dataclass(frozen=True)
class Block:
    """Whole lines or records of a file."""

    offset: int
    length: int
    rows: int
    first_row: int


@dataclass(frozen=True)
class Cut:
    """The blocks of a file, and what is wrong behind them, if the file is torn there."""

    blocks: tuple[Block, ...]
    torn: str | None = None

    @property
    def rows(self) -> int:
        """Rows of all blocks."""
        return sum(block.rows for block in self.blocks)


def block_bytes(file: str) -> float:
    """How large the blocks of a file are; a gzip file is one, however large."""
    return math.inf if is_gzip(file) else BLOCK_BYTES


@lru_cache(maxsize=4096)
def first_line(file: str, modified: int, size: int) -> bytes:
    """The first line of a file, with the line break that may be missing. Raises DataError."""
    line = b""
    try:
        for piece in pieces(file, 1 << 16):
            line += piece
            if b"\n" in piece:
                break
    except Damaged as error:
        raise unreadable(file, error) from None
    return line[: line.find(b"\n")] + b"\n" if b"\n" in line else line + b"\n"


def cut_lines(parts: Iterable[bytes], size: float, *, header: bool) -> Cut:
    """The blocks of the lines that come in `parts`, without the first line if it is a `header`."""
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
    return Cut(tuple(blocks))
