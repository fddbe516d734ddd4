"""The interface of a file format: its columns, and its rows chunk by chunk."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from recap.errors import DataError

ColumnTypes = Mapping[str, pa.DataType]
"""The types to read columns as in formats that store none."""


class Format(ABC):
    """Files of one kind. A chunk is the smallest part of a file that is read: a row group, a block of lines…"""

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
        """The `columns` of one chunk, rows in order, without the rows in `skip` (ascending, counted in the chunk).

        Raises DataError if the chunk is damaged; the error lists the damaged rows if the others can be read.
        """

    def torn_end(self, file: str) -> DataError | None:
        """The error in the end of a file whose beginning is valid; `chunk_rows` counts the rows before it."""
        return None


def drop_rows(table: pa.Table, rows: Sequence[int]) -> pa.Table:
    """`table` without `rows`."""
    if not rows:
        return table
    mask = np.ones(table.num_rows, bool)
    mask[list(rows)] = False
    return table.filter(pa.array(mask))
