"""What every format of files can do: say its columns, and give its rows chunk by chunk."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from recap.errors import DataError

ColumnTypes = Mapping[str, pa.DataType]
"""The types that columns are read as where a format does not tell them itself."""


class Format(ABC):
    """Files of one kind. A chunk is the smallest part of a file that is read: a row group, a block of lines…"""

    name: str
    """How people call it."""

    @abstractmethod
    def schema(self, file: str) -> pa.Schema:
        """The columns of `file`. Raises DataError where it is missing or damaged."""

    @abstractmethod
    def chunk_rows(self, file: str) -> Sequence[int]:
        """How many rows each chunk of `file` holds, in order. Raises DataError."""

    @abstractmethod
    def read(self, file: str, chunk: int, columns: Sequence[str], without: Sequence[int] = ()) -> pa.Table:
        """The `columns` of one chunk, rows in order, but for those `without`, which are rows of the chunk, rising.

        Raises DataError where the chunk is damaged; with the rows that are, if the others can be read without them.
        """

    def torn_end(self, file: str) -> DataError | None:
        """What is wrong with the end of a file that is whole up to there: `chunk_rows` are those before it."""
        return None


def leave_out(table: pa.Table, rows: Sequence[int]) -> pa.Table:
    """The rows of a table but for those."""
    if not rows:
        return table
    kept = np.ones(table.num_rows, bool)
    kept[list(rows)] = False
    return table.filter(pa.array(kept))
