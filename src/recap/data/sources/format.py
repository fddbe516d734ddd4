"""What every format of files can do: say its columns, and give its rows chunk by chunk."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import pyarrow as pa

ColumnTypes = Mapping[str, pa.DataType]
"""The types that columns are read as where a format does not tell them itself."""


class Format(ABC):
    """Files of one kind. A chunk is the smallest part of a file that is read: a row group, a block of lines…"""

    name: ClassVar[str]
    """How people call it."""

    @abstractmethod
    def schema(self, file: str) -> pa.Schema:
        """The columns of `file`. Raises DataError where it is missing or damaged."""

    @abstractmethod
    def chunk_rows(self, file: str) -> Sequence[int]:
        """How many rows each chunk of `file` holds, in order. Raises DataError."""

    @abstractmethod
    def read(self, file: str, chunk: int, columns: Sequence[str]) -> pa.Table:
        """The `columns` of one chunk, rows in order. Raises DataError where the chunk is damaged."""
