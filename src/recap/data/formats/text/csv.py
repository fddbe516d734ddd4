"""CSV whose first line names the columns. Arrow reads a block at once; a block that it refuses is read line by line."""

import csv
from collections.abc import Iterator, Sequence
from contextlib import suppress
from io import BytesIO
from itertools import islice

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from recap.config.data import CSV_NULLS
from recap.data.formats.blocks import MAX_LINE_BYTES, first_line
from recap.data.formats.files import stamp
from recap.data.formats.format import ColumnTypes
from recap.data.formats.text.lines import BYTE_ORDER_MARK, BadLines, TextFormat, count_lines, without_lines
from recap.data.formats.text.values import cast_texts, decimal_comma, parse_texts
from recap.errors import DataError
from recap.text import plural, shorten

_MAX_COLUMNS = 100_000
_MAX_NAME = 10_000
"""Characters of a column name; a longer one is a file that is not CSV."""
_MAX_QUOTED_LINES = 100
"""Lines that a quoted value with line breaks may spread over, for messages; after more, a quote was not closed."""
DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
"""Delimiters that are suggested, with their names."""
_NULL_HINT = (
    "; if it means null, add it to `null_values` of the source, or as --null-value to predict or evaluate --data"
)
_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$|^[+-]?[iI]nf$"
_CODE = r"^[+-]?0[0-9]|^[+-]?[0-9]{16,}$"
"""Digits that a float would change: with leading zeros, or too many."""


class CsvFormat(TextFormat):
    """CSV files, one row per line."""

    kind = "csv"
    name = "CSV"
    header_lines = 1

    def __init__(self, types: ColumnTypes, delimiter: str = ",", null_values: Sequence[str] = CSV_NULLS) -> None:
        """`types`: column → type; CSV holds no lists, so columns of list types are text.

        `null_values`: texts that mean null where they are not quoted.
        """
        super().__init__({name: pa.string() if pa.types.is_nested(kind) else kind for name, kind in types.items()})
        self.delimiter = delimiter
        self.null_values = list(null_values)
        self._irregular: set[str] = set()
        """Columns of numbers that are read as text first, since a block held values such as 1.0 or true."""

    def chunk_rows(self, file: str) -> Sequence[int]:
        rows = super().chunk_rows(file)
        if not rows:
            self._names(
                file
            )  # raises DataError for a first line that names no columns, as in files without line breaks
        return rows

    def _names(self, file: str) -> list[str]:
        header = first_line(file, *stamp(file)).removeprefix(BYTE_ORDER_MARK)
        count = header.count(self.delimiter.encode()) + 1
        if count > _MAX_COLUMNS:
            raise DataError(f"{file}:1: the first line names {count:,} columns; at most {_MAX_COLUMNS:,} can be read")
        if not header.strip(b"\r\n"):
            if not self.blocks(file):
                return []
            raise DataError(f"{file}:1: the first line is empty; it must name the columns")
        if b"\r" in header.rstrip(b"\r\n"):
            raise DataError(f"{file}:1: lines end with a carriage return alone; save the file with line feeds")
        try:
            names = self._split(header.decode())
        except UnicodeDecodeError as error:
            raise DataError(
                f"{file}: the names of its columns are not UTF-8 text ({error.reason}); save the file as UTF-8"
            ) from None
        self._check_delimiter(file, names)
        if names[-1].endswith("\n"):
            raise DataError(f"{file}:1: a quoted name does not end in the first line")
        if max(map(len, names)) > _MAX_NAME:
            limit = f"column names have at most {_MAX_NAME:,}"
            raise DataError(f"{file}:1: a name in the first line has {max(map(len, names)):,} characters; {limit}")
        return names

    def _split(self, line: str) -> list[str]:
        csv.field_size_limit(MAX_LINE_BYTES)
        return next(csv.reader([line], delimiter=self.delimiter))

    def _check_delimiter(self, file: str, names: Sequence[str]) -> None:
        """Raise DataError for a header of one column that another delimiter would divide."""
        if len(names) > 1 or names[0] in self.types:
            return
        other = _find_delimiter(names[0])
        if other is not None:
            raise DataError(
                f"{file}:1: the first line, {shorten(names[0])!r}, holds no {_shown(self.delimiter)}. Are its values "
                f"separated by a {DELIMITERS[other]}? Then set `delimiter: {_shown(other)}` for the source"
            )

    def _infer(self, file: str, names: Sequence[str]) -> pa.Schema:
        kinds = dict.fromkeys(names, pa.null())
        texts = pa.schema([(name, pa.string()) for name in kinds])
        for block in self.blocks(file):
            for text in self.texts(file, block):
                table = self._parse_good_lines(file, text, texts)
                for name in kinds:
                    if kinds[name] != pa.string():
                        kinds[name] = _common(kinds[name], _infer_kind(table.column(name), self.null_values))
        return pa.schema([(name, kinds[name]) for name in names])

    def _parse_good_lines(self, file: str, text: bytes, schema: pa.Schema) -> pa.Table:
        """The rows of `text` without bad lines, which `read` reports."""
        count = count_lines(text)
        try:
            return self._parse(file, text, count, schema)
        except BadLines as error:
            bad = sorted(error.misfits)
        with suppress(BadLines):
            return self._parse(file, without_lines(text, bad), count - len(bad), schema)
        return schema.empty_table()

    def _parse(self, file: str, text: bytes, count: int, schema: pa.Schema) -> pa.Table:
        if not count:
            return schema.empty_table()
        header = first_line(file, *stamp(file))
        irregular = [name for name in schema.names if name in self._irregular]
        fields = [pa.field(name, pa.string()) if name in irregular else schema.field(name) for name in schema.names]
        try:
            table = self._read(header + text, pa.schema(fields))
        except pa.ArrowInvalid:
            return self._parse_slowly(header, text, count, schema)
        if table.num_rows != count or text[text.rfind(b"\n", 0, -1) + 1 :].count(b'"') % 2:
            return self._parse_slowly(header, text, count, schema)
        return self._convert(table, schema, irregular) if irregular else table

    def _parse_slowly(self, header: bytes, text: bytes, count: int, schema: pa.Schema) -> pa.Table:
        """Like `_parse`, but finds the lines that are bad."""
        names = self._split(header.decode())
        misfits = {line: (None, message) for line, message in self._misshapen(text, names)}
        good = [line for line in range(count) if line not in misfits]
        good_text = without_lines(text, sorted(misfits)) if misfits else text
        try:
            table = self._read(header + good_text, pa.schema([(name, pa.binary()) for name in schema.names]))
        except pa.ArrowInvalid as error:
            raise BadLines(misfits or {0: (None, f"not readable as CSV ({error})")}) from None
        if table.num_rows != len(good):
            raise BadLines(misfits or {0: (None, f"{plural(count, 'line')} parse as {plural(table.num_rows, 'row')}")})
        texts = {name: _decode(table.column(name)) for name in schema.names}
        undecodable = {row: (name, message) for name, (_, bad) in texts.items() for row, message in bad.items()}
        decoded = pa.table({name: column for name, (column, _) in texts.items()})
        try:
            converted = self._convert(decoded, schema, schema.names)
        except BadLines as error:
            undecodable = {**error.misfits, **undecodable}
        misfits |= {good[row]: misfit for row, misfit in undecodable.items()}
        if misfits:
            raise BadLines(misfits)
        return converted

    def _convert(self, table: pa.Table, schema: pa.Schema, names: Sequence[str]) -> pa.Table:
        """`table` with the columns `names`, which are text, as the types of `schema`. Raises BadLines."""
        misfits: dict[int, tuple[str | None, str]] = {}
        columns: dict[str, pa.Array | pa.ChunkedArray] = {name: table.column(name) for name in schema.names}
        for name in names:
            kind = schema.field(name).type
            texts = pa.concat_arrays(table.column(name).chunks) if table.num_rows else pa.array([], pa.string())
            values = cast_texts(texts, kind)
            if values is None:
                values, wrong = parse_texts(texts, kind, self.null_values)
                for row, message in wrong.items():
                    hint = "" if decimal_comma(texts[row].as_py()) else _NULL_HINT
                    misfits.setdefault(row, (name, message + hint))
                if not wrong:
                    self._irregular.add(name)
            columns[name] = values
        if misfits:
            raise BadLines(misfits)
        return pa.table(columns, schema=schema)

    def _misshapen(self, text: bytes, names: Sequence[str]) -> Iterator[tuple[int, str]]:
        """The lines that are not one row of one value per column, with messages."""
        lines = text.decode("latin-1").removesuffix("\n").split("\n")
        start = 0
        while start < len(lines):
            reader = csv.reader((line + "\n" for line in islice(lines, start, None)), delimiter=self.delimiter)
            begin = 0  # of the row that `reader` reads, counted from `start`
            try:
                for values in reader:
                    count = reader.line_num - begin
                    open_at_end = bool(values) and values[-1].endswith("\n")
                    if count > 1 or open_at_end:
                        closed = count <= _MAX_QUOTED_LINES and not open_at_end
                        last = begin + (count if closed else 1)
                        message = "a quoted value does not end in its line; write each row in one line"
                        yield from ((start + line, message) for line in range(begin, last))
                        start += last
                        break
                    if len(values) != len(names) and (values or len(names) > 1):
                        content = f"found {plural(len(values), 'value')}" if values else "the line is empty"
                        yield start + begin, f"{content}, expected {len(names)}, one for each column"
                    begin = reader.line_num
                else:
                    return
            except csv.Error:  # of this reader, only for a carriage return
                yield start + begin, "the line holds a carriage return outside quotes"
                start += begin + 1

    def _read(self, text: bytes, schema: pa.Schema) -> pa.Table:
        """Parse lines, with the header in front. Raises pa.ArrowInvalid."""
        return pyarrow.csv.read_csv(
            BytesIO(text),
            read_options=pyarrow.csv.ReadOptions(use_threads=False, block_size=len(text)),
            # An empty line is a row in files of one column. In others it is ignored, and the row count reveals it.
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=self.delimiter,
                ignore_empty_lines=self.delimiter.encode() in text.partition(b"\n")[0],
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                null_values=self.null_values,
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
                column_types=schema,
                include_columns=schema.names,
            ),
        )


def guess_delimiter(file: str) -> str:
    """The delimiter of a file that no configuration describes: a comma unless only another one is in its first line."""
    header = first_line(file, *stamp(file)).decode(errors="replace")
    return _find_delimiter(header) or ","


def _find_delimiter(header: str) -> str | None:
    """The likely delimiter of a first line: the only one of `DELIMITERS` in it; None if there are more or none."""
    candidates = [character for character in DELIMITERS if character in header]
    return candidates[0] if len(candidates) == 1 else None


def _shown(delimiter: str) -> str:
    """A delimiter as it is written in YAML."""
    return '"\\t"' if delimiter == "\t" else f'"{delimiter}"'


def _decode(column: pa.ChunkedArray) -> tuple[pa.Array, dict[int, str]]:
    """Bytes as strings; and the message of each value that is not UTF-8, by its row."""
    values = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], pa.binary())
    try:
        return values.cast(pa.string()), {}
    except pa.ArrowInvalid:
        message = "the value is not UTF-8 text; save the file as UTF-8"
        texts = [None if value is None else value.decode(errors="replace") for value in values.to_pylist()]
        wrong = [row for row, text in enumerate(texts) if text is not None and text.encode() != values[row].as_py()]
        return pa.array(texts, pa.string()), dict.fromkeys(wrong, message)


def _infer_kind(column: pa.ChunkedArray, nulls: Sequence[str]) -> pa.DataType:
    """The type that keeps all values of a column of strings.

    `nulls`: texts that mean null, also where they are quoted, unless the column is text.
    """
    present = pc.utf8_trim_whitespace(column).drop_null()
    if not len(present):
        return pa.null()
    present = present.filter(pc.invert(pc.is_in(present, pa.array(nulls, pa.string()))))
    if not len(present):
        return pa.string()
    with suppress(pa.ArrowInvalid):  # not all of them are integers
        if pc.all(pc.equal(present.cast(pa.int64()).cast(pa.string()), present)).as_py():
            return pa.int64()
    if pc.all(pc.match_substring_regex(present, _NUMBER)).as_py():
        return pa.string() if pc.any(pc.match_substring_regex(present, _CODE)).as_py() else pa.float64()
    return pa.bool_() if pc.all(pc.is_in(pc.utf8_lower(present), pa.array(["true", "false"]))).as_py() else pa.string()


def _common(first: pa.DataType, second: pa.DataType) -> pa.DataType:
    """The type of a column that holds values of two types: text unless both are numbers."""
    kinds = {first, second} - {pa.null()}
    if len(kinds) <= 1:
        return next(iter(kinds), pa.null())
    return pa.float64() if kinds == {pa.int64(), pa.float64()} else pa.string()
