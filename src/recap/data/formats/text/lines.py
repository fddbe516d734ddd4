"""`TextFormat`: what CSV and JSON lines share. A row is one line, and a chunk is a block of lines."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

import numpy as np
import pyarrow as pa

from recap.data.formats import blocks
from recap.data.formats.blocks import Block, BlockIndex, LongLine, block_bytes, index_lines, long_line
from recap.data.formats.content import Damaged, is_gzip, pieces, read_range, unreadable
from recap.data.formats.files import stamp
from recap.data.formats.format import ColumnTypes, Format, check_unique
from recap.data.formats.index_cache import cached_index
from recap.data.formats.location import Location
from recap.errors import DataError

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""Stands at the beginning of UTF-8 files that some editors and Excel write."""

Misfits = Mapping[int, tuple[str | None, str]]
"""Line → the column that is wrong (None: the line as a whole), and a message."""


class BadLines(Exception):
    """Lines that cannot be read as rows."""

    def __init__(self, misfits: Misfits) -> None:
        """`misfits` counts lines from the start of the text that was parsed."""
        super().__init__(misfits)
        self.misfits = misfits


class TextFormat(Format):
    """Files of lines, in UTF-8."""

    def __init__(self, types: ColumnTypes) -> None:
        """`types`: column → type; other columns are text. Without any, types are inferred from all rows of a file."""
        self.types = types
        self._schema = lru_cache(maxsize=4096)(self._read_schema)

    def schema(self, file: str) -> pa.Schema:
        return self._schema(file, *stamp(file))

    def chunk_rows(self, file: str) -> Sequence[int]:
        return [block.rows for block in self.blocks(file)]

    def read(self, file: str, chunk: int, columns: Sequence[str], skip: Sequence[int] = ()) -> pa.Table:
        schema = self.schema(file)
        check_unique(schema, columns, file)
        selected = pa.schema([schema.field(name) for name in dict.fromkeys(columns)])
        block = self.blocks(file)[chunk]
        tables: list[pa.Table] = []
        misfits: dict[int, tuple[str | None, str]] = {}
        first = 0
        for text in self.texts(file, block):
            count = count_lines(text)
            skipped = [row - first for row in skip if first <= row < first + count]
            try:
                good = without_lines(text, skipped) if skipped else text
                tables.append(self._parse(file, good, count - len(skipped), selected))
            except BadLines as error:
                rows_of_lines = np.delete(np.arange(first, first + count), skipped).tolist()
                misfits |= {rows_of_lines[line]: misfit for line, misfit in error.misfits.items()}
            first += count
        if misfits:
            rows = sorted(misfits)
            column, message = misfits[rows[0]]
            raise Location(file, block.first_row, (), self.header_lines).error(column, message, rows)
        return pa.concat_tables(tables) if tables else selected.empty_table()

    def blocks(self, file: str) -> tuple[Block, ...]:
        """The chunks of a file. Raises DataError."""
        return _index(file, *stamp(file), bool(self.header_lines)).blocks

    def texts(self, file: str, block: Block) -> Iterator[bytes]:
        """The complete lines of a block; those of a gzip file in several pieces, which need less memory at once."""
        mark = BYTE_ORDER_MARK if block.offset == 0 else b""
        if not is_gzip(file):
            yield read_range(file, block.offset, block.length).removeprefix(mark)
            return
        position, end = 0, block.offset + block.length
        parts: list[bytes] = []
        try:
            for piece in pieces(file, 0):
                part = piece[max(block.offset - position, 0) : end - position]
                parts.append(part)
                position += len(piece)
                if sum(map(len, parts)) >= blocks.BLOCK_BYTES and b"\n" in part:
                    lines, line_break, rest = b"".join(parts).rpartition(b"\n")
                    yield (lines + line_break).removeprefix(mark)
                    mark, parts = b"", [rest]
                if position >= end:
                    break
        except Damaged as error:
            raise unreadable(file, error) from None
        if position < end:
            raise DataError(f"{file}: ends at byte {position:,}, but was longer when this job listed it")
        if text := b"".join(parts):
            yield text.removeprefix(mark)

    def _read_schema(self, file: str, modified: int, size: int) -> pa.Schema:
        try:
            head = next(pieces(file, 4), b"")[:4]
        except Damaged as error:
            raise unreadable(file, error) from None
        if head.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in head:
            raise DataError(f"{file}: is not UTF-8 text, but starts like UTF-16; save the file as UTF-8")
        names = self._names(file)
        if not self.blocks(file):  # without rows, JSON lines and files of 0 bytes have any columns
            return pa.schema([(name, self.types.get(name, pa.null())) for name in names or self.types])
        if self.types:
            return pa.schema([(name, self.types.get(name, pa.string())) for name in names])
        return self._infer(file, names)

    @abstractmethod
    def _names(self, file: str) -> list[str]:
        """The columns of a file, which may have no rows. Raises DataError."""

    @abstractmethod
    def _infer(self, file: str, names: Sequence[str]) -> pa.Schema:
        """The types that fit all rows of a file, with bad lines left out. Raises DataError."""

    @abstractmethod
    def _parse(self, file: str, text: bytes, count: int, schema: pa.Schema) -> pa.Table:
        """The columns of `schema` in `count` complete lines. Raises BadLines."""


@lru_cache(maxsize=4096)
def _index(file: str, modified: int, size: int, header: bool) -> BlockIndex:
    kind = f"lines{' after a header' * header} in blocks of {block_bytes(file)} bytes"
    try:
        return cached_index(
            file,
            (modified, size),
            kind,
            lambda: index_lines(pieces(file, blocks.BLOCK_BYTES), block_bytes(file), header=header),
        )
    except Damaged as error:
        raise unreadable(file, error) from None
    except LongLine as error:
        raise long_line(file, error) from None


def without_lines(text: bytes, skipped: Sequence[int]) -> bytes:
    """`text` without some of its lines, counted from 0."""
    lines = text.removesuffix(b"\n").split(b"\n")
    return b"".join(lines[line] + b"\n" for line in np.delete(np.arange(len(lines)), skipped).tolist())


def count_lines(text: bytes) -> int:
    """The number of lines; the last one may lack its line break."""
    return text.count(b"\n") + (text[-1:] not in (b"\n", b""))
