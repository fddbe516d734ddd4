"""`recap config new --from-data`: the configuration, with the vocabularies and split files that it needs."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from recap.config.data import ParquetConfig, SourceConfig
from recap.config.file.starter import Columns, StarterData, starter
from recap.data.formats.tables import TableFiles
from recap.data.tools.guess.columns import GuessedColumns, guess_columns
from recap.data.tools.guess.options import StatedColumns
from recap.data.tools.guess.split import LAST_DAY, parse_share, write_split
from recap.data.tools.vocabulary import write_table
from recap.errors import DataError, InputError
from recap.reporting import Say
from recap.text import plural

TRAIN, VALIDATION = "data/train.parquet", "data/validation.parquet"
ANALYSIS = "analysis.parquet"


def start_from_data(
    inputs: Sequence[str],
    schema_path: str | None,
    *,
    stated: StatedColumns,
    validation: str | None,
    output: Path | None,
    overwrite: bool,
    say: Say,
) -> str:
    """The text of a configuration for files that `inputs` match; writes the files it names, and `say`s each.

    `validation`: files, `last-day`, or a share of the rows as text; None for none. `output`: where the text will be
    written; without it strings are hashed, and rows cannot be split. Raises InputError and DataError.
    """
    share = LAST_DAY if validation == LAST_DAY else None if validation is None else parse_share(validation)
    if share is not None and output is None:
        raise InputError(f"--validation {validation}: writes the two parts beside the configuration; add --output FILE")
    folder = None if output is None else output.parent
    guess = guess_columns(
        inputs,
        schema_path,
        stated,
        validation=share,
        vocabulary_folder=None if folder is None else (folder / "vocabularies").as_posix(),
    )
    tables = dict(guess.vocabularies)
    analysis = None
    if folder is not None and guess.columns.continuous:
        analysis = (folder / ANALYSIS).as_posix()
        tables[analysis] = guess.scale
    parts = {} if folder is None or share is None else {False: folder / TRAIN, True: folder / VALIDATION}
    _check_new([*parts.values(), *map(Path, tables)], guess.files.files, overwrite=overwrite)
    data = StarterData(guess.source, guess.rows, guess.sampled, guess.rows)
    if guess.split is not None:
        _write_parts(guess, inputs, schema_path, parts)
        split = guess.split
        data = StarterData(
            ParquetConfig(inputs=[str(parts[False])]),
            split.train_rows,
            guess.sampled,
            guess.rows,
            ParquetConfig(inputs=[str(parts[True])]),
            split.comment,
        )
        for part, rows in ((False, split.train_rows), (True, split.validation_rows)):
            say(f"written: {parts[part]}, {plural(rows, 'row')}")
    elif validation is not None:
        source = _validation_source([validation], schema_path, guess.columns)
        data = StarterData(guess.source, guess.rows, guess.sampled, guess.rows, source)
    for file, table in tables.items():
        write_table(table, Path(file))
        say(f"written: {file}, {plural(table.num_rows, 'value')}")
    return starter(guess.columns, replace(data, analysis=analysis))


def _check_new(outputs: Sequence[Path], inputs: Sequence[str], *, overwrite: bool) -> None:
    """Raise InputError if a file would be replaced that is an input, or that may not be replaced."""
    read = {os.path.realpath(file) for file in inputs}
    for file in outputs:
        if os.path.realpath(file) in read:
            raise InputError(f"{file}: is an input and would be replaced; choose --output in another folder")
        if file.exists() and not overwrite:
            raise InputError(f"{file}: already exists; add --overwrite to replace it, or choose --output elsewhere")
        if file.exists() and not file.is_file():
            raise InputError(f"{file}: exists and is not a regular file; choose --output in another folder")


def _write_parts(
    guess: GuessedColumns, inputs: Sequence[str], schema_path: str | None, parts: dict[bool, Path]
) -> None:
    assert guess.split is not None
    write_split(TableFiles.open(inputs, schema_path, _types(guess)), guess.split, guess.columns.names, parts)


def _types(guess: GuessedColumns) -> dict[str, pa.DataType]:
    """Column → the type to read it as, in formats that store none: ids as the text they are written as."""
    columns = guess.columns
    numbers = [column.name for role in (columns.continuous, columns.binary) for column in role]
    numbers += [str(label.data.get("column", label.name)) for label in columns.labels]
    texts = [column.name for column in (*columns.ids, *columns.user)]
    texts += [column.name for column in columns.discrete if "size" not in column.value]
    return guess.types | dict.fromkeys(numbers, pa.float64()) | dict.fromkeys(texts, pa.string())


def _validation_source(inputs: Sequence[str], schema_path: str | None, columns: Columns) -> SourceConfig:
    """The source of validation files. Raises DataError if one lacks a column of the configuration."""
    files = TableFiles.open(inputs, schema_path)
    for file in files.files:
        missing = [name for name in columns.names if name not in files.schema(file).names]
        if missing:
            raise DataError(f"{file}: lacks the columns {', '.join(missing)} of the training data")
    return files.source
