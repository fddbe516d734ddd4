"""Partitioned folders: what a path says of all rows of its file, such as `country=JP/hour=07/part.parquet`."""

from collections.abc import Sequence
from urllib.parse import unquote

import pyarrow as pa

from recap.data.formats.format import ColumnTypes, Format
from recap.data.formats.location import Location
from recap.errors import DataError

NULL = "__HIVE_DEFAULT_PARTITION__"
"""The value of a folder whose rows have none."""


class PartitionedFormat(Format):
    """Files of another format, with a column for each folder `name=value` that they lie in, but for those they hold."""

    def __init__(self, inner: Format, types: ColumnTypes, files: Sequence[str] = ()) -> None:
        """`types` are those asked for; other columns are integers if they are in all of `files`, else strings."""
        self.inner = inner
        self.name = inner.name
        self._asked = {name: kind for name, kind in types.items() if not pa.types.is_nested(kind)}
        self._seen = _kinds(files)

    def schema(self, file: str) -> pa.Schema:
        """The columns of the file, then those of its folders, the outermost first."""
        schema = self.inner.schema(file)
        for name, value in self._constants(file).items():
            schema = schema.append(pa.field(name, value.type))
        return schema

    def chunk_rows(self, file: str) -> Sequence[int]:
        """Those of the file."""
        return self.inner.chunk_rows(file)

    def read(self, file: str, chunk: int, columns: Sequence[str], without: Sequence[int] = ()) -> pa.Table:
        """One chunk of the file; it is not opened where its folders say all that is asked for."""
        names = list(dict.fromkeys(columns))
        constants = self._constants(file) if any(name in folder_values(file) for name in names) else {}
        inside = [name for name in names if name not in constants]
        if len(inside) == len(names):
            return self.inner.read(file, chunk, names, without)
        if inside:
            table = self.inner.read(file, chunk, inside, without)
            found, rows = {name: table.column(name) for name in inside}, table.num_rows
        else:
            found, rows = {}, self.inner.chunk_rows(file)[chunk] - len(without)
        found |= {name: pa.repeat(constants[name], rows) for name in names if name in constants}
        return pa.table({name: found[name] for name in names})

    def torn_end(self, file: str) -> DataError | None:
        """That of the file."""
        return self.inner.torn_end(file)

    def _constants(self, file: str) -> dict[str, pa.Scalar]:
        """What the folders of a file say of columns that it does not hold itself. Raises DataError."""
        said = folder_values(file)
        own = self.inner.schema(file).names if said else []
        return {name: self._value(file, name, text) for name, text in said.items() if name not in own}

    def _value(self, file: str, name: str, text: str | None) -> pa.Scalar:
        kind = self._asked.get(name) or self._seen.get(name) or _kinds([file]).get(name, pa.string())
        try:
            return pa.scalar(text, pa.string()).cast(kind)
        except pa.ArrowException:
            raise Location(file).error(name, f"its folder says {text!r}; {kind} is expected here") from None


def folder_values(file: str) -> dict[str, str | None]:
    """The values that the folders of a file say, as Hive writes them: decoded as in URLs, and of two the outer one."""
    found: dict[str, str | None] = {}
    for segment in file.split("/")[:-1]:
        name, equals, value = (unquote(part) for part in segment.partition("="))
        if name and equals:
            found.setdefault(_text(name), None if value == NULL else _text(value))
    return found


def _text(text: str) -> str:
    """Text that Arrow can hold, of a path that may be anything."""
    return text.encode(errors="replace").decode()


def _kinds(files: Sequence[str]) -> dict[str, pa.DataType]:
    """The types that columns can have for the folders of all files."""
    values: dict[str, set[str]] = {}
    for file in files:
        for name, text in folder_values(file).items():
            if text is not None:
                values.setdefault(name, set()).add(text)
    return {name: pa.int64() if all(map(_is_integer, texts)) else pa.string() for name, texts in values.items()}


def _is_integer(text: str) -> bool:
    try:
        pa.scalar(text).cast(pa.int64())
    except pa.ArrowException:
        return False
    return True
