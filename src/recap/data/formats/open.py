"""Opens the format of a source config, and lists the chunks of a file."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

from recap.config.data import ArrowConfig, CsvConfig, JsonLinesConfig, ParquetConfig, SourceConfig, TfRecordConfig
from recap.data.formats.arrow import ArrowFormat
from recap.data.formats.files import stamp
from recap.data.formats.format import ColumnTypes, Format
from recap.data.formats.parquet import ParquetFormat
from recap.data.formats.partitions import PartitionedFormat
from recap.data.formats.text import CsvFormat, JsonLinesFormat
from recap.data.formats.tfrecord.reader import TfRecordFormat
from recap.errors import DataError


@dataclass(frozen=True)
class Chunk:
    """The smallest part of a file that is read, such as a row group."""

    file: str
    number: int
    first_row: int
    rows: int
    stamp: tuple[int, int]
    """Of the file at the time the chunk was listed."""


def chunks_of(format_: Format, file: str, *, allow_torn: bool = False) -> list[Chunk]:
    """The chunks of one file that hold rows. Raises DataError if it is damaged, or its end torn (see `allow_torn`)."""
    torn = format_.torn_end(file)
    if torn is not None and not allow_torn:
        raise torn
    listed = stamp(file)
    chunks: list[Chunk] = []
    first_row = 0
    for number, rows in enumerate(format_.chunk_rows(file)):
        if rows:
            chunks.append(Chunk(file, number, first_row, rows, listed))
        first_row += rows
    return chunks


def open_format(config: SourceConfig, types: ColumnTypes, files: Sequence[str] = ()) -> Format:
    """The format of a source config, with the columns of partitioned folders.

    `types`: the types to read columns as in formats that store none. `files`: all files of the source, which together
    decide the types of the folders' columns.
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
"""File extension → format; a `.gz` after it is ignored."""


def stem(file: str) -> str:
    """The name of a file without its format's extension."""
    plain = file.removesuffix(".gz")
    base, ending = os.path.splitext(plain)
    return base if ending.lower() in EXTENSIONS else plain


def guess_source(file: str, inputs: Sequence[str], schema_path: str | None = None) -> SourceConfig:
    """The source config for `inputs`, by the extension of `file`, one of their files; Parquet if it is unknown.

    Raises DataError for TFRecord without `schema_path`.
    """
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
