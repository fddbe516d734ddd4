"""Partitioned folders: columns whose values are in the paths of files, such as `country=JP/hour=07/part.parquet`."""

from collections.abc import Sequence
from urllib.parse import unquote

import pyarrow as pa

from recap.data.formats.format import ColumnTypes, Format, check_unique
from recap.data.formats.location import Location
from recap.errors import DataError

NULL = "__HIVE_DEFAULT_PARTITION__"
"""Folder value that stands for null."""


class PartitionedFormat(Format):
    """Adds a column for each `name=value` folder in the path of a file; a column of the file itself wins."""

    def __init__(self, inner: Format, types: ColumnTypes) -> None:
        """`types`: column → type; other columns are strings, as they stand in the path."""
        self.inner = inner
        self.kind, self.name, self.header_lines = inner.kind, inner.name, inner.header_lines
        self._types = {name: kind for name, kind in types.items() if not pa.types.is_nested(kind)}

    def schema(self, file: str) -> pa.Schema:
        """The columns of the file, then those of its folders, outermost first."""
        schema = self.inner.schema(file)
        for name, value in self._constants(file).items():
            schema = schema.append(pa.field(name, value.type))
        return schema

    def chunk_rows(self, file: str) -> Sequence[int]:
        return self.inner.chunk_rows(file)

    def read(self, file: str, chunk: int, columns: Sequence[str], skip: Sequence[int] = ()) -> pa.Table:
        """One chunk; the file itself is not read if all columns come from its folders."""
        names = list(dict.fromkeys(columns))
        check_unique(self.schema(file), names, file)
        constants = self._constants(file) if any(name in folder_values(file) for name in names) else {}
        in_file = [name for name in names if name not in constants]
        if len(in_file) == len(names):
            return self.inner.read(file, chunk, names, skip)
        values: dict[str, pa.ChunkedArray] = {}
        rows = self.inner.chunk_rows(file)[chunk] - len(skip)
        if in_file:
            table = self.inner.read(file, chunk, in_file, skip)
            values, rows = {name: table.column(name) for name in in_file}, table.num_rows
        values |= {name: pa.repeat(constants[name], rows) for name in names if name in constants}
        return pa.table({name: values[name] for name in names})

    def torn_end(self, file: str) -> DataError | None:
        return self.inner.torn_end(file)

    def _constants(self, file: str) -> dict[str, pa.Scalar]:
        """The folder columns of a file that the file itself lacks. Raises DataError."""
        texts = folder_values(file)
        own = self.inner.schema(file).names if texts else []
        return {name: self._value(file, name, text) for name, text in texts.items() if name not in own}

    def _value(self, file: str, name: str, text: str | None) -> pa.Scalar:
        kind = self._types.get(name, pa.string())
        try:
            return pa.scalar(text, pa.string()).cast(kind)
        except pa.ArrowException:
            raise Location(file).error(name, f"is {text!r} in the path of the file, expected {kind}") from None


def folder_values(file: str) -> dict[str, str | None]:
    """The values in the folders of a path, URL-decoded as in Hive; of two folders of one name, the outer is used."""
    values: dict[str, str | None] = {}
    for segment in file.split("/")[:-1]:
        name, equals, value = (unquote(part) for part in segment.partition("="))
        if name and equals:
            values.setdefault(_utf8(name), None if value == NULL else _utf8(value))
    return values


def _utf8(text: str) -> str:
    """Replace characters that UTF-8, and so Arrow, cannot encode; a path may hold any bytes."""
    return text.encode(errors="replace").decode()
