"""Parquet: a chunk is a row group."""

from collections.abc import Sequence
from functools import lru_cache

import pyarrow as pa
import pyarrow.parquet as pq

from recap.data.sources.files import stamp
from recap.data.sources.format import Format
from recap.errors import DataError


class ParquetFormat(Format):
    """Parquet files."""

    name = "Parquet"

    def schema(self, file: str) -> pa.Schema:
        """From the footer."""
        return _open(file, *stamp(file)).schema_arrow

    def chunk_rows(self, file: str) -> Sequence[int]:
        """From the footer."""
        metadata = _open(file, *stamp(file)).metadata
        return [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]

    def read(self, file: str, chunk: int, columns: Sequence[str]) -> pa.Table:
        """One row group."""
        try:
            return _open(file, *stamp(file)).read_row_group(chunk, columns=list(dict.fromkeys(columns)))
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{file}: row group {chunk} cannot be read ({error})") from None


@lru_cache(maxsize=64)
def _open(file: str, modified: int, size: int) -> pq.ParquetFile:
    """Footers are parsed once; a file that changed is opened anew."""
    try:
        return pq.ParquetFile(file)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{file}: not readable as Parquet ({error})") from None
