"""Writes rows into several Parquet files at once, each in row groups of a useful size."""

from collections.abc import Hashable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from recap.errors import DataError, InputError
from recap.storage import atomic_write, failure

_ROW_GROUP = 65_536
_MAX_WAITING = 16 * _ROW_GROUP
"""Rows in memory that wait to be written, in all parts together."""

Part = TypeVar("Part", bound=Hashable)


def write_parts(tables: Iterable[tuple[pa.Table, npt.NDArray[Any]]], outputs: Mapping[Part, Path], origin: str) -> None:
    """Write each row to the file of its part, in their order; the files appear together, when all rows are written.

    `tables`: tables of equal columns, each with the part of its rows, [rows]. `origin`: the file that errors name.
    Raises DataError for columns of several types or that Parquet cannot hold, InputError if a file cannot be written.
    """
    with ExitStack() as stack:
        writers = {part: _Writer(stack, path) for part, path in outputs.items()}
        empty: pa.Table | None = None
        for table, parts in tables:
            empty = table.slice(0, 0) if empty is None else empty
            for part, writer in writers.items():
                rows = parts == part
                if rows.any():
                    writer.add(table if rows.all() else table.filter(pa.array(rows)), origin)
            while sum(writer.waiting for writer in writers.values()) > _MAX_WAITING:
                max(writers.values(), key=lambda writer: writer.waiting).flush()
        for writer in writers.values():
            if not writer.has_rows and empty is not None:
                writer.add(empty, origin)
            writer.close()


class _Writer:
    """Writes one Parquet file."""

    def __init__(self, stack: ExitStack, path: Path) -> None:
        self._path, self._stack = path, stack
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = stack.enter_context(atomic_write(path))
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({failure(error)})") from None
        self._tables: list[pa.Table] = []
        self._writer: pq.ParquetWriter | None = None
        self.waiting = 0

    @property
    def has_rows(self) -> bool:
        """Whether rows were added."""
        return self._writer is not None

    def add(self, table: pa.Table, file: str) -> None:
        """Add the next rows."""
        try:
            if self._writer is None:
                self._schema = table.schema
                self._writer = self._stack.enter_context(pq.ParquetWriter(self._file, self._schema, compression="zstd"))
            self._tables.append(table.cast(self._schema))
        except OSError as error:
            raise InputError(f"{self._path}: cannot be written ({failure(error)})") from None
        except (pa.ArrowException, ValueError) as error:
            raise DataError(f"{file} and other files hold columns of different types ({error})") from None
        self.waiting += table.num_rows
        if self.waiting >= _ROW_GROUP:
            self.flush()

    def flush(self) -> None:
        """Write the rows that wait."""
        assert self._writer is not None
        try:
            if self._tables:
                self._writer.write_table(pa.concat_tables(self._tables))
        except OSError as error:
            raise InputError(f"{self._path}: cannot be written ({failure(error)})") from None
        self._tables, self.waiting = [], 0

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            self.flush()
            self._writer.close()
