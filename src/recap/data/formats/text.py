"""CSV with a header, and JSON lines: a chunk is a block of lines. A row is one line, also if it has quotes."""

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
from recap.data.formats.content import Damaged, pieces, read_range, unreadable
from recap.data.formats.files import stamp
from recap.data.formats.format import ColumnTypes, Format
from recap.data.formats.index_cache import cached_index
from recap.data.formats.location import Location
from recap.errors import DataError

_MAX_TRIES = 1000
"""Ranges of lines parsed to find the bad lines of a block."""
_LINE_NUMBER = re.compile(r"Row #\d+: | in row \d+")


class _Unparsable(Exception):
    """Lines cannot be parsed as rows."""


class _TextFormat(Format):
    """Files of lines. The first block decides the columns, and the types of those without a configured type."""

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
        selected = pa.schema([schema.field(name) for name in dict.fromkeys(columns)])
        return self._read_block(file, self._blocks(file)[chunk], selected, skip)

    def _blocks(self, file: str) -> tuple[Block, ...]:
        return _index(file, *stamp(file), self.has_header).blocks

    def _read_schema(self, file: str, modified: int, size: int) -> pa.Schema:
        first = next(iter(self._blocks(file)), Block(0, 0, 0, 0))
        try:
            inferred = self._infer(file, first, None)
        except DataError:
            # Infer only the configured columns: other keys may hold values of several types.
            text = read_range(file, first.offset, first.length)
            known = [(name, kind) for name, kind in self.types.items() if json.dumps(name).encode() in text]
            if self.has_header or not known:
                raise
            inferred = self._infer(file, first, pa.schema(known))
        try:
            names = inferred.names
        except UnicodeDecodeError as error:
            raise DataError(
                f"{file}: the names of its columns are not UTF-8 text ({error.reason}); save the file as UTF-8"
            ) from None
        fields = []
        for name, inferred_type in zip(names, inferred.types, strict=True):
            # true and false cannot be parsed as numbers, so booleans stay booleans
            configured = None if pa.types.is_boolean(inferred_type) else self.types.get(name)
            fields.append(pa.field(name, configured or inferred_type))
        return pa.schema(fields)

    def _infer(self, file: str, first: Block, schema: pa.Schema | None) -> pa.Schema:
        """The columns of the first block without its bad lines; `read` reports those."""
        try:
            return self._read_block(file, first, schema).schema
        except DataError as error:
            if not error.rows or len(error.rows) == first.rows:
                raise
            return self._read_block(file, first, schema, error.rows).schema

    def _read_block(self, file: str, block: Block, schema: pa.Schema | None, skip: Sequence[int] = ()) -> pa.Table:
        """The columns of `schema` (default: all, with inferred types) of a block without its rows `skip`.

        Raises DataError, with the bad rows if the others can be parsed without them.
        """
        header = first_line(file, *stamp(file)) if self.has_header else b""
        text = read_range(file, block.offset, block.length)
        if not skip:
            with suppress(_Unparsable):  # the bad lines are found below
                return self._parse_rows(header + text, block.rows, schema)
        all_lines = text.split(b"\n")[: block.rows]
        rows = np.delete(np.arange(block.rows), list(skip)).tolist()
        lines = [all_lines[row] for row in rows]
        try:
            return self._parse_rows(_join(header, lines), len(lines), schema)
        except _Unparsable as error:
            bad = self._bad_lines(header, lines, schema)
            if not bad:
                raise DataError(
                    f"{file}: rows {block.first_row} to {block.first_row + block.rows - 1}: {error}"
                ) from None
            bad_rows = [rows[line] for line in sorted(bad)]
            message = bad[min(bad)]
        raise DataError(f"{file}: row {block.first_row + bad_rows[0]}: {message}", bad_rows)

    def _parse_rows(self, text: bytes, count: int, schema: pa.Schema | None) -> pa.Table:
        """Parse lines. Raises _Unparsable if they are not `count` valid rows."""
        try:
            table = self._parse(text, schema)
        except pa.ArrowException as error:
            message = _LINE_NUMBER.sub("", str(error))  # its line numbers count from the start of `text`
            raise _Unparsable(f"not readable as {self.name} ({message})") from None
        if table.num_rows != count:
            lines = "the line parses" if count == 1 else f"{count} lines parse"
            raise _Unparsable(
                f"{lines} as {table.num_rows} rows; write a row per line, without empty lines and line breaks in quotes"
            )
        return table

    def _bad_lines(self, header: bytes, lines: Sequence[bytes], schema: pa.Schema | None) -> dict[int, str]:
        """The lines that cannot be parsed → messages, by bisection; empty if the others fail without them too."""
        bad: dict[int, str] = {}
        ranges, tries = [(0, len(lines))], 0
        while ranges:
            start, end = ranges.pop()
            try:
                self._parse_rows(_join(header, lines[start:end]), end - start, schema)
            except _Unparsable as error:
                if end - start == 1:
                    bad[start] = str(error)
                else:
                    middle = (start + end) // 2
                    ranges += [(start, middle), (middle, end)]
            tries += 1
            if tries > _MAX_TRIES:
                return {}
        others = [line for row, line in enumerate(lines) if row not in bad]
        try:
            self._parse_rows(_join(header, others), len(others), schema)
        except _Unparsable:  # these lines fail only together
            return {}
        return bad

    @abstractmethod
    def _parse(self, text: bytes, schema: pa.Schema | None) -> pa.Table:
        """Parse lines, with the header in front if the format has one. Raises pa.ArrowException."""


class CsvFormat(_TextFormat):
    """CSV files whose first line names the columns; an empty value is null."""

    name = "CSV"
    has_header = True

    def __init__(self, types: ColumnTypes, delimiter: str = ",") -> None:
        """`types`: column → type; list types are ignored."""
        super().__init__({name: kind for name, kind in types.items() if not pa.types.is_nested(kind)})
        self.delimiter = delimiter

    def _parse(self, text: bytes, schema: pa.Schema | None) -> pa.Table:
        return pyarrow.csv.read_csv(
            BytesIO(text),
            read_options=pyarrow.csv.ReadOptions(use_threads=False, block_size=max(len(text), 1)),
            # An empty line is a row in files of one column. In others it is ignored, and the row count reveals it.
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=self.delimiter,
                ignore_empty_lines=self.delimiter.encode() in text.partition(b"\n")[0],
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
                column_types=schema,
                include_columns=schema.names if schema is not None else None,
            ),
        )


class JsonLinesFormat(_TextFormat):
    """Files with a JSON object per line; a missing key is null."""

    name = "JSON lines"
    has_header = False

    def _parse(self, text: bytes, schema: pa.Schema | None) -> pa.Table:
        if not text:
            return (schema if schema is not None else pa.schema([])).empty_table()
        options = pyarrow.json.ParseOptions(
            explicit_schema=schema, unexpected_field_behavior="infer" if schema is None else "ignore"
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
