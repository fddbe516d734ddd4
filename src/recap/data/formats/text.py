"""CSV with a header, and JSON lines: a chunk is a block of lines. A row is one line; quotes hold no line breaks."""

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

from recap.data.formats.blocks import BLOCK_BYTES, Block, BlockIndex, block_bytes, first_line, index_lines
from recap.data.formats.files import stamp
from recap.data.formats.format import ColumnTypes, Format
from recap.data.formats.index_cache import cached_index
from recap.data.formats.inflate import Damaged, pieces, read_range, unreadable
from recap.data.formats.location import Location
from recap.errors import DataError

_MAX_TRIES = 1000
"""Parts of a block that are parsed to find its bad lines."""
_LINE_NUMBER = re.compile(r"Row #\d+: | in row \d+")


class _Unreadable(Exception):
    """Lines cannot be parsed as rows."""


class _TextFormat(Format):
    """Files of lines; the columns are those of the first block, with the configured types, or else inferred there."""

    has_header: bool

    def __init__(self, types: ColumnTypes) -> None:
        self.types = types
        self._schema = lru_cache(maxsize=4096)(self._read_schema)

    def schema(self, file: str) -> pa.Schema:
        return self._schema(file, *stamp(file))

    def chunk_rows(self, file: str) -> Sequence[int]:
        return [block.rows for block in self._blocks(file)]

    def read(self, file: str, chunk: int, columns: Sequence[str], skip: Sequence[int] = ()) -> pa.Table:
        schema = self.schema(file)
        for name in columns:
            if schema.names.count(name) > 1:
                raise Location(file).error(name, "appears twice in the file, so it is ambiguous; rename one")
        wanted = pa.schema([schema.field(name) for name in dict.fromkeys(columns)])
        return self._table(file, self._blocks(file)[chunk], wanted, skip)

    def _blocks(self, file: str) -> tuple[Block, ...]:
        return _index(file, *stamp(file), self.has_header).blocks

    def _read_schema(self, file: str, modified: int, size: int) -> pa.Schema:
        first = next(iter(self._blocks(file)), Block(0, 0, 0, 0))
        try:
            inferred = self._infer(file, first, None)
        except DataError:
            # An unused key may hold values of several types, and a used one bad values.
            text = read_range(file, first.offset, first.length)
            known = [(name, kind) for name, kind in self.types.items() if json.dumps(name).encode() in text]
            if self.has_header or not known:
                raise
            inferred = self._infer(file, first, pa.schema(known))
        # true and false cannot be parsed as numbers, so booleans stay booleans
        asked = {field.name: self.types.get(field.name) for field in inferred if not pa.types.is_boolean(field.type)}
        return pa.schema([pa.field(field.name, asked.get(field.name) or field.type) for field in inferred])

    def _infer(self, file: str, first: Block, wanted: pa.Schema | None) -> pa.Schema:
        """The columns of the first block, without its bad lines, which `read` reports."""
        try:
            return self._table(file, first, wanted).schema
        except DataError as error:
            if not error.rows or len(error.rows) == first.rows:
                raise
            return self._table(file, first, wanted, error.rows).schema

    def _table(self, file: str, block: Block, wanted: pa.Schema | None, skip: Sequence[int] = ()) -> pa.Table:
        """The rows of a block without those in `skip`: the `wanted` columns, or all with inferred types."""
        header = first_line(file, *stamp(file)) if self.has_header else b""
        text = read_range(file, block.offset, block.length)
        if not skip:
            with suppress(_Unreadable):  # the bad lines are found below
                return self._rows(header + text, block.rows, wanted)
        all_lines = text.split(b"\n")[: block.rows]
        rows = np.delete(np.arange(block.rows), list(skip)).tolist()
        lines = [all_lines[row] for row in rows]
        try:
            return self._rows(_join(header, lines), len(lines), wanted)
        except _Unreadable as error:
            bad = self._bad_lines(header, lines, wanted)
            if not bad:
                raise DataError(
                    f"{file}: rows {block.first_row} to {block.first_row + block.rows - 1}: {error}"
                ) from None
            bad_rows = [rows[line] for line in sorted(bad)]
            message = bad[min(bad)]
        raise DataError(f"{file}: row {block.first_row + bad_rows[0]}: {message}", bad_rows)

    def _rows(self, text: bytes, count: int, wanted: pa.Schema | None) -> pa.Table:
        """Parse lines. Raises _Unreadable if they are not `count` valid rows."""
        try:
            table = self._parse(text, wanted)
        except pa.ArrowException as error:
            message = _LINE_NUMBER.sub("", str(error))  # its line numbers count from the start of the part
            raise _Unreadable(f"not readable as {self.name} ({message})") from None
        if table.num_rows != count:
            lines = "the line gives" if count == 1 else f"{count} lines give"
            raise _Unreadable(
                f"{lines} {table.num_rows} rows; a row is one line, without empty lines between rows "
                "or line breaks in quotes"
            )
        return table

    def _bad_lines(self, header: bytes, lines: Sequence[bytes], wanted: pa.Schema | None) -> dict[int, str]:
        """The lines that cannot be parsed → messages, by bisection; empty if the others fail without them too."""
        bad: dict[int, str] = {}
        parts, tries = [(0, len(lines))], 0
        while parts:
            start, end = parts.pop()
            try:
                self._rows(_join(header, lines[start:end]), end - start, wanted)
            except _Unreadable as error:
                if end - start == 1:
                    bad[start] = str(error)
                else:
                    parts += [(start, (start + end) // 2), ((start + end) // 2, end)]
            tries += 1
            if tries > _MAX_TRIES:
                return {}
        others = [line for row, line in enumerate(lines) if row not in bad]
        try:
            self._rows(_join(header, others), len(others), wanted)
        except _Unreadable:  # these lines fail only together
            return {}
        return bad

    @abstractmethod
    def _parse(self, text: bytes, wanted: pa.Schema | None) -> pa.Table:
        """Parse lines, after the header if the format has one."""


class CsvFormat(_TextFormat):
    """CSV files whose first line names the columns; an empty value is null."""

    name = "CSV"
    has_header = True

    def __init__(self, types: ColumnTypes, delimiter: str = ",") -> None:
        """`types`: the types to read columns as; types of lists are ignored."""
        super().__init__({name: kind for name, kind in types.items() if not pa.types.is_nested(kind)})
        self.delimiter = delimiter

    def _parse(self, text: bytes, wanted: pa.Schema | None) -> pa.Table:
        return pyarrow.csv.read_csv(
            BytesIO(text),
            read_options=pyarrow.csv.ReadOptions(use_threads=False, block_size=max(len(text), 1)),
            # An empty line is a row only in files of one column; in others the row count reveals it.
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
    """Files with a JSON object per line; a missing key is null."""

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
def _index(file: str, modified: int, size: int, header: bool) -> BlockIndex:
    kind = "lines after a header" if header else "lines"
    try:
        return cached_index(
            file,
            (modified, size),
            kind,
            lambda: index_lines(pieces(file, BLOCK_BYTES), block_bytes(file), header=header),
        )
    except Damaged as error:
        raise unreadable(file, error) from None


def _join(header: bytes, lines: Sequence[bytes]) -> bytes:
    return header + b"".join(line + b"\n" for line in lines)
