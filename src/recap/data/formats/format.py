"""The interface of a file format: its columns, and its rows chunk by chunk."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from recap.data.formats.files import stamp
from recap.errors import DataError

ColumnTypes = Mapping[str, pa.DataType]
"""Column → the type to read it as, in formats that do not store types."""


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


class Format(ABC):
    """Reads files of one format, a chunk at a time."""

    name: str
    """For messages."""

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

    A file with a torn end is damaged too; with `allow_torn`, the chunks before that end are returned.
    """
    torn = format_.torn_end(file)
    if torn is not None and not allow_torn:
        raise torn
    file_stamp = stamp(file)
    chunks: list[Chunk] = []
    first_row = 0
    for number, rows in enumerate(format_.chunk_rows(file)):
        if rows:
            chunks.append(Chunk(file, number, first_row, rows, file_stamp))
        first_row += rows
    return chunks


def drop_rows(table: pa.Table, rows: Sequence[int]) -> pa.Table:
    """`table` without `rows`."""
    if not rows:
        return table
    mask = np.ones(table.num_rows, bool)
    mask[list(rows)] = False
    return table.filter(pa.array(mask))
