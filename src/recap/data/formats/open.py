"""Opens the format of a source config, or of files by their extension."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import assert_never

from recap.config.base import all_problems
from recap.config.data import (
    ArrowConfig,
    CsvConfig,
    JsonLinesConfig,
    ParquetConfig,
    SourceConfig,
    SourceKind,
    TfRecordConfig,
)
from recap.data.formats.arrow import ArrowFormat
from recap.data.formats.files import stamp
from recap.data.formats.format import ColumnTypes, Format
from recap.data.formats.parquet.reader import ParquetFormat
from recap.data.formats.partitions import PartitionedFormat
from recap.data.formats.recognize import recognize
from recap.data.formats.text.csv import CsvFormat, guess_delimiter
from recap.data.formats.text.jsonl import JsonLinesFormat
from recap.data.formats.tfrecord.reader import TfRecordFormat
from recap.errors import DataError, InputError


def open_format(config: SourceConfig, types: ColumnTypes) -> Format:
    """The format of a source config, with the columns of partitioned folders.

    `types`: column → type, for formats that do not store types, and for folders.
    """
    return PartitionedFormat(_open_format(config, types), types)


def _open_format(config: SourceConfig, types: ColumnTypes) -> Format:
    match config:
        case ParquetConfig():
            return ParquetFormat()
        case ArrowConfig():
            return ArrowFormat()
        case CsvConfig():
            return CsvFormat(types, config.delimiter, config.null_values)
        case JsonLinesConfig():
            return JsonLinesFormat(types)
        case TfRecordConfig():
            return TfRecordFormat(config.schema_path)
        case _:
            assert_never(config)


EXTENSIONS: dict[str, SourceKind] = {
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


def guess_source(
    file: str,
    inputs: Sequence[str],
    schema_path: str | None = None,
    like: SourceConfig | None = None,
    null_values: Sequence[str] = (),
) -> SourceConfig:
    """The source config for `inputs`, of the format of `file`, one of the files they match.

    The extension decides. Without a known one the first bytes do, unless the file is text, which may mean anything.
    CSV has the delimiter and null values of `like`, if that is of CSV files; else its first line decides the delimiter.
    `null_values`: more texts that mean null in CSV. Raises DataError for such text, and for TFRecord without
    `schema_path`; InputError for null values that cannot occur, or if the format is not CSV.
    """
    extension = Path(file.removesuffix(".gz")).suffix.lower()
    globs = list(inputs)
    kind = EXTENSIONS.get(extension) or _recognized(file)
    if null_values and kind != "csv":
        raise InputError(f"--null-value: {file} is {kind}; only CSV has texts that mean null, so leave the option out")
    match kind:
        case "arrow":
            return ArrowConfig(kind="arrow", inputs=globs)
        case "csv":
            csv = (
                like
                if isinstance(like, CsvConfig)
                else CsvConfig(kind="csv", inputs=globs, delimiter=guess_delimiter(file))
            )
            delimiter = "\t" if extension == ".tsv" else csv.delimiter
            nulls = list(dict.fromkeys([*csv.null_values, *null_values]))
            update = {"inputs": globs, "delimiter": delimiter, "null_values": nulls, "num_files_to_keep": None}
            csv = csv.model_copy(update=update)
            for _, problem in all_problems(csv) if null_values else ():
                raise InputError(f"--null-value: {problem}")
            return csv
        case "jsonl":
            return JsonLinesConfig(kind="jsonl", inputs=globs)
        case "tfrecord" if schema_path is not None:
            return TfRecordConfig(kind="tfrecord", inputs=globs, schema_path=schema_path)
        case "tfrecord":
            raise DataError(f"{file}: TFRecord needs a JSON file that lists the columns; add --schema FILE")
        case _:
            return ParquetConfig(inputs=globs)


def _recognized(file: str) -> str:
    """The format of a file whose extension is unknown; Parquet, which holds no text, for an empty file."""
    content = recognize(file)
    if content is not None and content.kind is not None and content.certain:
        return content.kind
    if content is None and stamp(file)[1] == 0:
        return "parquet"
    noun = "" if content is None else f". It looks like {content.noun}: {content.advice}"
    raise DataError(
        f"{file}: neither its extension ({', '.join(EXTENSIONS)}) nor its first bytes are those of a known format{noun}"
    )
