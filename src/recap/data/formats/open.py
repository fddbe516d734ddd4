"""Opens the format of a source config, or of files by their extension."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import assert_never

from recap.config.data import ArrowConfig, CsvConfig, JsonLinesConfig, ParquetConfig, SourceConfig, TfRecordConfig
from recap.data.formats.arrow import ArrowFormat
from recap.data.formats.format import ColumnTypes, Format
from recap.data.formats.parquet import ParquetFormat
from recap.data.formats.partitions import PartitionedFormat
from recap.data.formats.text import CsvFormat, JsonLinesFormat
from recap.data.formats.tfrecord.reader import TfRecordFormat
from recap.errors import DataError


def open_format(config: SourceConfig, types: ColumnTypes, files: Sequence[str] = ()) -> Format:
    """The format of a source config, with the columns of partitioned folders.

    `types`: column → type, for formats that do not store types. `files`: all files of the source; their paths together
    decide the types of the columns in folders.
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
"""File extension, without a final `.gz` → format."""


def stem(file: str) -> str:
    """The name of a file without the extension of its format."""
    plain = file.removesuffix(".gz")
    base, extension = os.path.splitext(plain)
    return base if extension.lower() in EXTENSIONS else plain


def guess_source(file: str, inputs: Sequence[str], schema_path: str | None = None) -> SourceConfig:
    """The source config for `inputs`, from the extension of `file`, one of the files they match.

    Files with an unknown extension are read as Parquet, or as TFRecord if it ends in `.gz`. Raises DataError for
    TFRecord without `schema_path`.
    """
    extension = Path(file.removesuffix(".gz")).suffix.lower()
    globs = list(inputs)
    match EXTENSIONS.get(extension, "tfrecord" if file.endswith(".gz") else "parquet"):
        case "arrow":
            return ArrowConfig(kind="arrow", inputs=globs)
        case "csv":
            return CsvConfig(kind="csv", inputs=globs, delimiter="\t" if extension == ".tsv" else ",")
        case "jsonl":
            return JsonLinesConfig(kind="jsonl", inputs=globs)
        case "tfrecord" if schema_path is not None:
            return TfRecordConfig(kind="tfrecord", inputs=globs, schema_path=schema_path)
        case "tfrecord":
            raise DataError(f"{file}: TFRecord needs a JSON file that lists the columns; add --schema FILE")
        case _:
            return ParquetConfig(inputs=globs)
