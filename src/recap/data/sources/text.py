"""CSV with a header, and JSON lines: a chunk is a block of lines. A row is a line: no line breaks in quotes."""

from abc import abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from io import BytesIO

import pyarrow as pa
import pyarrow.csv
import pyarrow.json

from recap.data.sources.blocks import Block, first_line, line_blocks, read_bytes
from recap.data.sources.files import stamp
from recap.data.sources.format import ColumnTypes, Format, leave_out
from recap.errors import DataError


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
        wanted = pa.schema([schema.field(name) for name in dict.fromkeys(columns)])
        return leave_out(self._table(file, self._blocks(file)[chunk], wanted), without)

    def _blocks(self, file: str) -> tuple[Block, ...]:
        return line_blocks(file, *stamp(file), self.has_header)

    def _read_schema(self, file: str, modified: int, size: int) -> pa.Schema:
        first = self._blocks(file)[:1]
        seen = self._table(file, first[0] if first else Block(0, 0, 0, 0), None).schema
        # true and false are no text of a number; they are read as what they are
        asked = {field.name: self.types.get(field.name) for field in seen if not pa.types.is_boolean(field.type)}
        return pa.schema([pa.field(field.name, asked.get(field.name) or field.type) for field in seen])

    def _table(self, file: str, block: Block, wanted: pa.Schema | None) -> pa.Table:
        """The rows of a block: the columns that are `wanted`, or all as they look."""
        header = first_line(file, *stamp(file)) if self.has_header else b""
        rows = f"rows {block.first_row} to {block.first_row + block.rows - 1}"
        try:
            table = self._parse(header + read_bytes(file, block.offset, block.length), wanted)
        except pa.ArrowException as error:
            raise DataError(f"{file}: {rows}: not readable as {self.name} ({error})") from None
        if table.num_rows != block.rows:
            raise DataError(
                f"{file}: {rows}: {block.rows} lines give {table.num_rows} rows; a row is one line, without empty "
                "lines between and line breaks in quotes"
            )
        return table

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
            parse_options=pyarrow.csv.ParseOptions(delimiter=self.delimiter, ignore_empty_lines=False),
            convert_options=pyarrow.csv.ConvertOptions(
                strings_can_be_null=True,
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
