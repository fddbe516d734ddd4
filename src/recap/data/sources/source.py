"""The files of a data set as a list of chunks, of whatever format they are."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import assert_never

import pyarrow as pa

from recap.config.data import ArrowConfig, CsvConfig, JsonLinesConfig, ParquetConfig, SourceConfig, TfRecordConfig
from recap.data.place import Place
from recap.data.schema import RowEncoder
from recap.data.sources.arrow import ArrowFormat
from recap.data.sources.files import find_files, relative_names, stamp
from recap.data.sources.filesystem import is_remote
from recap.data.sources.format import ColumnTypes, Format
from recap.data.sources.parquet import ParquetFormat
from recap.data.sources.partitions import PartitionedFormat
from recap.data.sources.text import CsvFormat, JsonLinesFormat
from recap.data.sources.tfrecord import TfRecordFormat
from recap.errors import DataError

_LISTERS = 8
"""Files of a store that are looked at at once."""


@dataclass(frozen=True)
class Chunk:
    """The smallest part of a file that is read, such as a row group."""

    file: str
    number: int
    first_row: int
    rows: int


class Source:
    """The chunks of the files that `config.inputs` match, in the order of the file names."""

    def __init__(self, config: SourceConfig, encoder: RowEncoder) -> None:
        """List the chunks and check the columns of every file against `encoder`. Raises DataError."""
        self.files = find_files(config.inputs)
        self.encoder = encoder
        self.format = open_format(config, encoder.types, self.files)
        self.chunks: list[Chunk] = []
        self._stamps: dict[str, tuple[int, int]] = {}
        for file, (stamped, chunks) in zip(self.files, self._looked_at(), strict=True):
            self._stamps[file] = stamped
            self.chunks += chunks
        if not self.chunks:
            raise DataError(f"{self.files[0]} and its sister files ({len(self.files)} in all) hold not a single row")

    @property
    def fingerprint(self) -> str:
        """Names (below their common folder) and sizes of all chunks, hashed: equal for the same rows in order."""
        names = dict(zip(self.files, relative_names(self.files), strict=True))
        listing = [(names[chunk.file], chunk.number, chunk.rows) for chunk in self.chunks]
        return sha256(repr(listing).encode()).hexdigest()[:16]

    def read(self, chunk: Chunk) -> pa.Table:
        """The rows of `chunk`: the encoder's columns. Raises DataError where the file is no longer what was listed."""
        self._check_unchanged(chunk.file)
        table = self.format.read(chunk.file, chunk.number, self.encoder.columns)
        if table.num_rows != chunk.rows:
            raise _changed(chunk.file, f"its part {chunk.number} holds {table.num_rows} rows instead of {chunk.rows}")
        return table

    def _looked_at(self) -> Iterator[tuple[tuple[int, int], list[Chunk]]]:
        """The stamp and the chunks of every file; many at once where a store answers, for each answer takes long."""
        if not any(map(is_remote, self.files)):
            yield from map(self._look, self.files)
            return
        with ThreadPoolExecutor(_LISTERS, thread_name_prefix="recap-lister") as listers:
            yield from listers.map(self._look, self.files)

    def _look(self, file: str) -> tuple[tuple[int, int], list[Chunk]]:
        stamped = stamp(file)
        self.encoder.check(self.format.schema(file), file)
        return stamped, chunks_of(self.format, file)

    def _check_unchanged(self, file: str) -> None:
        (old_time, old_size), (time, size) = self._stamps[file], self._stamp(file)
        if size != old_size:
            raise _changed(file, f"it holds {size:,} bytes instead of {old_size:,}")
        if time != old_time:
            raise _changed(file, f"it was written at {datetime.fromtimestamp(time / 1e9):%Y-%m-%d %H:%M:%S}")

    def _stamp(self, file: str) -> tuple[int, int]:
        try:
            return stamp(file)
        except DataError as error:
            raise _changed(file, str(error).removeprefix(f"{file}: ")) from None

    def place(self, chunk: Chunk) -> Place:
        """Where the rows of `chunk` stand, for errors."""
        return Place(chunk.file, chunk.first_row)


def _changed(file: str, text: str) -> DataError:
    """What is said of a file that is not what it was when the rows were laid in order."""
    advice = "bring the old file back and go on, or start anew"
    return DataError(f"{file}: changed since this job began: {text}; {advice}")


def chunks_of(format_: Format, file: str) -> list[Chunk]:
    """The chunks of one file that hold rows. Raises DataError where it is damaged or torn."""
    torn = format_.torn_end(file)
    if torn is not None:
        raise torn
    chunks: list[Chunk] = []
    first_row = 0
    for number, rows in enumerate(format_.chunk_rows(file)):
        if rows:
            chunks.append(Chunk(file, number, first_row, rows))
        first_row += rows
    return chunks


def open_format(config: SourceConfig, types: ColumnTypes, files: Sequence[str] = ()) -> Format:
    """What reads the files of `config`, with the columns that their folders say.

    `types` are those of columns where a format does not tell them itself. `files`, if they are known, are looked at
    together for the types of the columns of folders.
    """
    return PartitionedFormat(_open_format(config, types), types, files)


def _open_format(config: SourceConfig, types: ColumnTypes) -> Format:
    match config:
        case ParquetConfig():
            return ParquetFormat()
        case ArrowConfig():
            return ArrowFormat()
        case CsvConfig():
            return CsvFormat(types, config.delimiter)
        case JsonLinesConfig():
            return JsonLinesFormat(types)
        case TfRecordConfig():
            return TfRecordFormat(config.schema_path)
        case _:
            assert_never(config)


EXTENSIONS: dict[str, str] = {
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".tfrecord": "tfrecord",
    ".tfrecords": "tfrecord",
}
"""How the names of files end → the kind of their format; a `.gz` behind it is passed over."""


def stem(file: str) -> str:
    """The name of a file without the endings that say its format."""
    plain = file.removesuffix(".gz")
    base, ending = os.path.splitext(plain)
    return base if ending.lower() in EXTENSIONS else plain


def guess_source(inputs: Sequence[str], schema_path: str | None = None) -> SourceConfig:
    """The source that files are, by how the first one's name ends; what has no known ending is Parquet.

    Raises DataError for TFRecord without `schema_path`.
    """
    file = find_files(inputs)[0]
    ending = Path(file.removesuffix(".gz")).suffix.lower()
    globs = list(inputs)
    match EXTENSIONS.get(ending, "tfrecord" if file.endswith(".gz") else "parquet"):
        case "arrow":
            return ArrowConfig(kind="arrow", inputs=globs)
        case "csv":
            return CsvConfig(kind="csv", inputs=globs, delimiter="\t" if ending == ".tsv" else ",")
        case "jsonl":
            return JsonLinesConfig(kind="jsonl", inputs=globs)
        case "tfrecord" if schema_path is not None:
            return TfRecordConfig(kind="tfrecord", inputs=globs, schema_path=schema_path)
        case "tfrecord":
            raise DataError(f"{file}: TFRecord files need the JSON file that lists their columns; give --schema FILE")
        case _:
            return ParquetConfig(inputs=globs)
