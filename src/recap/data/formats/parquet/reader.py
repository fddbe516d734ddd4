"""Parquet: a chunk is a row group."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache

import pyarrow as pa
import pyarrow.parquet as pq

from recap.data.formats.files import open_file, stamp
from recap.data.formats.format import DAMAGE, Format, check_names, drop_rows
from recap.data.formats.object_stores import is_remote, reason
from recap.data.formats.parquet.packed import unpack, unpack_schema
from recap.data.formats.recognize import not_readable
from recap.errors import DataError


class ParquetFormat(Format):
    """Parquet files; packed columns are read as lists."""

    kind = "parquet"
    name = "Parquet"

    def schema(self, file: str) -> pa.Schema:
        return _footer(file, *stamp(file))[1]

    def chunk_rows(self, file: str) -> Sequence[int]:
        metadata = _footer(file, *stamp(file))[0]
        return [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]

    def read(self, file: str, chunk: int, columns: Sequence[str], skip: Sequence[int] = ()) -> pa.Table:
        metadata = _footer(file, *stamp(file))[0]
        try:
            with _open(file, metadata) as opened:  # a new reader: readers are not thread-safe
                table = opened.read_row_group(chunk, columns=list(dict.fromkeys(columns)), use_threads=False)
                return drop_rows(unpack(table, file), skip)
        except DAMAGE as error:
            raise DataError(f"{file}: row group {chunk} cannot be read ({reason(error)})") from None


@contextmanager
def _open(file: str, metadata: pq.FileMetaData | None = None) -> Iterator[pq.ParquetFile]:
    """A reader. From an object store it fetches all columns of a row group together, not one after the other."""
    if not is_remote(file):
        with pq.ParquetFile(file, metadata=metadata) as opened:
            yield opened
        return
    with open_file(file) as stream, pq.ParquetFile(stream, metadata=metadata, pre_buffer=True) as opened:
        yield opened


@lru_cache(maxsize=1024)
def _footer(file: str, modified: int, size: int) -> tuple[pq.FileMetaData, pa.Schema]:
    """The metadata and the schema of a file, cached until the file changes."""
    try:
        with _open(file) as opened:
            check_names(opened.schema_arrow)
            return opened.metadata, unpack_schema(opened.schema_arrow, file)
    except DAMAGE as error:
        raise not_readable(file, ParquetFormat.name, error) from None
