"""The interface of a file format: its columns, and its rows chunk by chunk."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa

from recap.config.data import SourceKind
from recap.data.formats.files import stamp
from recap.data.formats.location import Location
from recap.data.formats.object_stores import is_remote
from recap.data.formats.recognize import check_content
from recap.errors import DataError
from recap.text import plural

ColumnTypes = Mapping[str, pa.DataType]
"""Column → the type to read it as, in formats that do not store types."""


DAMAGE = (OSError, pa.ArrowException, UnicodeDecodeError)
"""What pyarrow raises for a file that is damaged or cannot be read."""


@dataclass(frozen=True)
class Chunk:
    """A part of a file that is read at once, such as a row group or a block of lines."""

    file: str
    number: int
    """Counted in the file, from 0; chunks without rows count."""
    first_row: int
    """Row of the file, from 0."""
    rows: int
    stamp: tuple[int, int]
    """Modification time (ns) and size (bytes) of the file when the chunk was listed."""
    header_lines: int | None = None
    """Lines of the file before row 0, in formats of one row per line; None in others."""

    def location(self, skipped: Sequence[int] = ()) -> Location:
        """Where the rows of the chunk are, without those `skipped` (ascending, counted in the chunk)."""
        return Location(self.file, self.first_row, tuple(skipped), self.header_lines)


class Format(ABC):
    """Reads files of one format, a chunk at a time."""

    kind: SourceKind
    name: str
    """For messages."""
    header_lines: int | None = None
    """Lines of a file before row 0, in formats of one row per line; None in others."""

    @abstractmethod
    def schema(self, file: str) -> pa.Schema:
        """The columns of `file`. Raises DataError if it is missing or damaged."""

    @abstractmethod
    def chunk_rows(self, file: str) -> Sequence[int]:
        """The number of rows of each chunk of `file`, in order. Raises DataError."""

    @abstractmethod
    def read(self, file: str, chunk: int, columns: Sequence[str], skip: Sequence[int] = ()) -> pa.Table:
        """The `columns` of one chunk, in the order of its rows, without rows `skip` (ascending, counted in the chunk).

        Raises DataError if the chunk is damaged, with the damaged rows if the others can be read without them.
        """

    def torn_end(self, file: str) -> DataError | None:
        """The error of a file that is damaged from some row on; None if there is none.

        `chunk_rows` counts the rows before the damage, and `read` reads them.
        """
        return None


def list_chunks(format_: Format, file: str, *, allow_torn: bool = False) -> list[Chunk]:
    """The chunks of one file that hold rows. Raises DataError if the file is damaged.

    A file with a torn end is damaged too; with `allow_torn`, the chunks before that end are returned. A file of 0 bytes
    holds no rows in every format: writers leave such files for empty partitions.
    """
    file_stamp = stamp(file)
    if file_stamp[1] == 0:
        return []
    if format_.kind not in ("parquet", "arrow"):  # those check their own magic bytes
        check_content(file, format_.kind, format_.name)
    torn = format_.torn_end(file)
    if torn is not None and not allow_torn:
        raise torn
    chunks: list[Chunk] = []
    first_row = 0
    for number, rows in enumerate(format_.chunk_rows(file)):
        if rows:
            chunks.append(Chunk(file, number, first_row, rows, file_stamp, format_.header_lines))
        first_row += rows
    return chunks


def no_rows(files: Sequence[str], reason: str | None = None) -> DataError:
    """The error for inputs of which no file holds rows."""
    if len(files) == 1:
        text = f"{files[0]}: holds no rows"
    else:
        text = f"{files[0]} and {plural(len(files) - 1, 'other file')} of the same inputs hold no rows"
    return DataError(text if reason is None else f"{text}: {reason}")


def read_chunk(format_: Format, chunk: Chunk, columns: Sequence[str], skip: Sequence[int] = ()) -> pa.Table:
    """The `columns` of a chunk without rows `skip`. Raises DataError if it is damaged, or the file has changed."""
    _check_unchanged(chunk)
    try:
        table = format_.read(chunk.file, chunk.number, columns, skip)
    except DataError:
        _check_unchanged(chunk)  # the reason, if so
        raise
    if not is_remote(chunk.file):  # files of object stores are replaced as a whole
        _check_unchanged(chunk)
    rows = table.num_rows + len(skip)
    if rows != chunk.rows:
        raise _changed(chunk.file, f"its part {chunk.number} holds {rows} rows instead of {chunk.rows}")
    return table


def _check_unchanged(chunk: Chunk) -> None:
    try:
        time, size = stamp(chunk.file)
    except DataError as error:
        raise _changed(chunk.file, str(error).removeprefix(f"{chunk.file}: ")) from None
    if size != chunk.stamp[1]:
        raise _changed(chunk.file, f"it holds {size:,} bytes instead of {chunk.stamp[1]:,}")
    if time != chunk.stamp[0]:
        raise _changed(chunk.file, f"it was written at {datetime.fromtimestamp(time / 1e9):%Y-%m-%d %H:%M:%S}")


def _changed(file: str, text: str) -> DataError:
    """The error for a file that changed after the job started."""
    return DataError(
        f"{file}: changed since this job started: {text}; restore the old file and resume, or start a new run"
    )


def check_names(schema: pa.Schema) -> pa.Schema:
    """`schema`. Raises UnicodeDecodeError, as any use of the names would, if they are not UTF-8."""
    _ = schema.names
    return schema


def check_unique(schema: pa.Schema, columns: Sequence[str], file: str) -> None:
    """Raise DataError for one of `columns` that a file holds more than once."""
    counts = Counter(schema.names)
    for name in columns:
        if counts[name] > 1:
            raise Location(file).error(name, "appears twice in the file, so it is ambiguous; rename one")


def drop_rows(table: pa.Table, rows: Sequence[int]) -> pa.Table:
    """`table` without `rows`."""
    if not rows:
        return table
    mask = np.ones(table.num_rows, bool)
    mask[list(rows)] = False
    return table.filter(pa.array(mask))
