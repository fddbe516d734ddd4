"""CSV with a header, and JSON lines: a chunk is a block of lines. A row is a line: no line breaks in quotes."""

import json
import re
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from io import BytesIO

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.json

from recap.data.formats.blocks import BLOCK_BYTES, Block, Cut, block_bytes, cut_lines, first_line
from recap.data.formats.files import stamp
from recap.data.formats.format import ColumnTypes, Format
from recap.data.formats.index_cache import remembered
from recap.data.formats.inflate import Damaged, pieces, read_range, unreadable
from recap.data.formats.location import Location
from recap.errors import DataError

_TRIES = 1000
"""Parts of a block that are read to find the lines that are wrong."""
_LINE_NUMBER = re.compile(r"Row #\d+: | in row \d+")


class _Unreadable(Exception):
    """Why lines are no rows."""


class _TextFormat(Format):
    """Files of lines; their columns are those of the first block, of the types that are asked for, or seen there."""

    has_header: bool

    def __init__(self, types: ColumnTypes) -> None:
        self.types = types
        self._schema = lru_cache(maxsize=4096)(self._read_schema)

    def schema(self, file: str) -> pa.Schema:
        """From the first block."""
        return self._schema(file, *stamp(file))

    def chunk_rows(self, file: str) -> Sequence[int]:
        """Lines of each block."""
        return [block.rows for block in self._blocks(file)]

    def read(self, file: str, chunk: int, columns: Sequence[str], without: Sequence[int] = ()) -> pa.Table:
        """One block."""
        schema = self.schema(file)
        for name in columns:
            if schema.names.count(name) > 1:
                raise Location(file).error(name, "stands there twice; which one is meant cannot be told")
        wanted = pa.schema([schema.field(name) for name in dict.fromkeys(columns)])
        return self._table(file, self._blocks(file)[chunk], wanted, without)

    def _blocks(self, file: str) -> tuple[Block, ...]:
        return _cut(file, *stamp(file), self.has_header).blocks

    def _read_schema(self, file: str, modified: int, size: int) -> pa.Schema:
        first = (*self._blocks(file), Block(0, 0, 0, 0))[0]
        try:
            seen = self._seen(file, first, None)
        except DataError:
            # Values of several types may stand under a key that nobody reads, or be wrong under one that is.
            text = read_range(file, first.offset, first.length)
            known = [(name, kind) for name, kind in self.types.items() if json.dumps(name).encode() in text]
            if self.has_header or not known:
                raise
            seen = self._seen(file, first, pa.schema(known))
        # true and false are no text of a number; they are read as what they are
        asked = {field.name: self.types.get(field.name) for field in seen if not pa.types.is_boolean(field.type)}
        return pa.schema([pa.field(field.name, asked.get(field.name) or field.type) for field in seen])

    def _seen(self, file: str, first: Block, wanted: pa.Schema | None) -> pa.Schema:
        """The columns of the first block; lines that are wrong are told where rows are read."""
        try:
            return self._table(file, first, wanted).schema
        except DataError as error:
            if not error.rows or len(error.rows) == first.rows:
                raise
            return self._table(file, first, wanted, error.rows).schema

    def _table(self, file: str, block: Block, wanted: pa.Schema | None, without: Sequence[int] = ()) -> pa.Table:
        """The rows of a block but for some: the columns that are `wanted`, or all as they look."""
        header = first_line(file, *stamp(file)) if self.has_header else b""
        text = read_range(file, block.offset, block.length)
        if not without:
            with suppress(_Unreadable):  # below, line by line, which of them it is is found
                return self._rows(header + text, block.rows, wanted)
        lines = text.split(b"\n")[: block.rows]
        kept = np.delete(np.arange(block.rows), list(without)).tolist()
        try:
            return self._rows(_join(header, [lines[row] for row in kept]), len(kept), wanted)
        except _Unreadable as error:
            wrong = self._wrong_lines(header, [lines[row] for row in kept], wanted)
            if not wrong:
                raise DataError(
                    f"{file}: rows {block.first_row} to {block.first_row + block.rows - 1}: {error}"
                ) from None
            rows = [kept[line] for line in sorted(wrong)]
            text_of_first = wrong[min(wrong)]
        raise DataError(f"{file}: row {block.first_row + rows[0]}: {text_of_first}", rows)

    def _rows(self, text: bytes, count: int, wanted: pa.Schema | None) -> pa.Table:
        """The rows of some lines. Raises _Unreadable where they are none, or not `count`."""
        try:
            table = self._parse(text, wanted)
        except pa.ArrowException as error:
            said = _LINE_NUMBER.sub("", str(error))  # counted in the part that was read
            raise _Unreadable(f"not readable as {self.name} ({said})") from None
        if table.num_rows != count:
            lines = "the line gives" if count == 1 else f"{count} lines give"
            raise _Unreadable(
                f"{lines} {table.num_rows} rows; a row is one line, without empty lines between "
                "and line breaks in quotes"
            )
        return table

    def _wrong_lines(self, header: bytes, lines: Sequence[bytes], wanted: pa.Schema | None) -> dict[int, str]:
        """What is wrong with each line without which the others are rows; nothing where there are no such lines.

        Halves of what cannot be read are read until it is one line.
        """
        wrong: dict[int, str] = {}
        parts, tries = [(0, len(lines))], 0
        while parts:
            start, end = parts.pop()
            try:
                self._rows(_join(header, lines[start:end]), end - start, wanted)
            except _Unreadable as error:
                if end - start == 1:
                    wrong[start] = str(error)
                else:
                    parts += [(start, (start + end) // 2), ((start + end) // 2, end)]
            tries += 1
            if tries > _TRIES:
                return {}
        others = [line for row, line in enumerate(lines) if row not in wrong]
        try:
            self._rows(_join(header, others), len(others), wanted)
        except _Unreadable:  # lines that only fail together
            return {}
        return wrong

    @abstractmethod
    def _parse(self, text: bytes, wanted: pa.Schema | None) -> pa.Table:
        """The rows of some lines."""


class CsvFormat(_TextFormat):
    """CSV files whose first line names the columns; an empty value is null."""

    name = "CSV"
    has_header = True

    def __init__(self, types: ColumnTypes, delimiter: str = ",") -> None:
        """`types` are those of the columns that are known of; CSV holds no lists."""
        super().__init__({name: kind for name, kind in types.items() if not pa.types.is_nested(kind)})
        self.delimiter = delimiter

    def _parse(self, text: bytes, wanted: pa.Schema | None) -> pa.Table:
        return pyarrow.csv.read_csv(
            BytesIO(text),
            read_options=pyarrow.csv.ReadOptions(use_threads=False, block_size=max(len(text), 1)),
            # An empty line is a row only where a row is one value; elsewhere it is missed when rows are counted.
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=self.delimiter,
                ignore_empty_lines=self.delimiter.encode() in text.partition(b"\n")[0],
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
                column_types=wanted,
                include_columns=wanted.names if wanted is not None else None,
            ),
        )


class JsonLinesFormat(_TextFormat):
    """Files whose every line is a JSON object; a key that is missing from a line is null."""

    name = "JSON lines"
    has_header = False

    def _parse(self, text: bytes, wanted: pa.Schema | None) -> pa.Table:
        if not text:
            return (wanted if wanted is not None else pa.schema([])).empty_table()
        options = pyarrow.json.ParseOptions(
            explicit_schema=wanted, unexpected_field_behavior="infer" if wanted is None else "ignore"
        )
        read_options = pyarrow.json.ReadOptions(use_threads=False, block_size=len(text))
        return pyarrow.json.read_json(BytesIO(text), read_options=read_options, parse_options=options)


@lru_cache(maxsize=4096)
def _cut(file: str, modified: int, size: int, header: bool) -> Cut:
    """The blocks of a file of lines."""
    kind = "lines after a header" if header else "lines"
    try:
        return remembered(
            file,
            (modified, size),
            kind,
            lambda: cut_lines(pieces(file, BLOCK_BYTES), block_bytes(file), header=header),
        )
    except Damaged as error:
        raise unreadable(file, error) from None


def _join(header: bytes, lines: Sequence[bytes]) -> bytes:
    return header + b"".join(line + b"\n" for line in lines)
