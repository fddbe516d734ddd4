"""What reads files of whatever format they are, chunk by chunk."""

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
    """Of the file, when the chunk was listed."""


def chunks_of(format_: Format, file: str, *, though_torn: bool = False) -> list[Chunk]:
    """The chunks of one file that hold rows. Raises DataError where it is damaged, or torn and that is not accepted."""
    torn = format_.torn_end(file)
    if torn is not None and not though_torn:
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
