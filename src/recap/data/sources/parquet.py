"""Parquet files as a list of chunks: a chunk is one row group of one file, the smallest unit that is read."""

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256

import pyarrow as pa
import pyarrow.parquet as pq

from recap.config.data import ParquetConfig
from recap.data.schema import Place, RowEncoder
from recap.errors import DataError


@dataclass(frozen=True)
class Chunk:
    """One row group."""

    file: str
    row_group: int
    first_row: int
    rows: int


class ParquetSource:
    """The row groups of the files that `config.inputs` match, in the order of the file names."""

    def __init__(self, config: ParquetConfig, encoder: RowEncoder) -> None:
        """List the chunks and check every file's schema against `encoder`. Raises DataError."""
        self.files = find_files(config.inputs)
        self.encoder = encoder
        self.chunks: list[Chunk] = []
        for file in self.files:
            opened = open_parquet(file)
            encoder.check(opened.schema_arrow, file)
            first_row = 0
            for row_group in range(opened.metadata.num_row_groups):
                rows = opened.metadata.row_group(row_group).num_rows
                if rows:
                    self.chunks.append(Chunk(file, row_group, first_row, rows))
                first_row += rows
        if not self.chunks:
            raise DataError(f"{_listed(config.inputs)}: {len(self.files)} files, but not a single row")

    @property
    def fingerprint(self) -> str:
        """Names (below their common folder) and sizes of all chunks, hashed: equal for the same rows in order."""
        folder = os.path.commonpath([os.path.dirname(os.path.abspath(file)) for file in self.files])
        listing = [(os.path.relpath(chunk.file, folder), chunk.row_group, chunk.rows) for chunk in self.chunks]
        return sha256(repr(listing).encode()).hexdigest()[:16]

    def read(self, chunk: Chunk, extra_columns: Sequence[str] = ()) -> pa.Table:
        """The rows of `chunk`: the encoder's columns and `extra_columns`."""
        return read_row_group(chunk.file, chunk.row_group, [*self.encoder.columns, *extra_columns])

    def place(self, chunk: Chunk) -> Place:
        """Where the rows of `chunk` stand, for errors."""
        return Place(chunk.file, chunk.first_row)


def find_files(inputs: Sequence[str]) -> list[str]:
    """The files that globs match, each once, by name. Raises DataError for a glob that matches nothing."""
    found: set[str] = set()
    for pattern in inputs:
        # A file that is named whole is that file, whatever its name would match.
        matched = [pattern] if os.path.isfile(pattern) else glob.glob(pattern, recursive=True)
        files = [file for file in matched if os.path.isfile(file)]
        if not files and os.path.isdir(pattern):
            raise DataError(f"{pattern}: is a folder; name its files, such as {os.path.join(pattern, '*.parquet')}")
        if not files:
            raise DataError(
                f"{pattern}: matches no file (working directory {os.getcwd()}); "
                "check the path of the data, or make it first"
            )
        found.update(files)
    return sorted(found)


def open_parquet(file: str) -> pq.ParquetFile:
    """Open `file`. Raises DataError where it is missing or not Parquet."""
    try:
        status = os.stat(file)
        return _open(file, status.st_mtime_ns, status.st_size)
    except FileNotFoundError:
        raise DataError(f"{file}: no such file") from None
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{file}: not readable as Parquet ({error})") from None


def read_row_group(file: str, row_group: int, columns: Sequence[str]) -> pa.Table:
    """The `columns` of one row group. Raises DataError where the file is damaged."""
    try:
        return open_parquet(file).read_row_group(row_group, columns=list(dict.fromkeys(columns)))
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{file}: row group {row_group} cannot be read ({error})") from None


@lru_cache(maxsize=8)
def _open(file: str, modified: int, size: int) -> pq.ParquetFile:
    """Footers are parsed once; a file that changed is opened anew."""
    return pq.ParquetFile(file)


def _listed(inputs: Sequence[str]) -> str:
    return ", ".join(inputs)
