"""Bulk prediction: writes a Parquet file of predictions for each input file, a chunk at a time."""

import os
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from recap.config.checks.common import SCORE
from recap.config.data import TfRecordConfig
from recap.config.features import CarriedColumn
from recap.data.coverage import Coverage, check_known, describe
from recap.data.encoding.columns import carried_values, empty_table, source_column
from recap.data.formats.format import Chunk
from recap.data.formats.location import Location
from recap.data.formats.tables import TableFiles
from recap.data.tools.outputs import output_files
from recap.errors import InputError, RecapError
from recap.inference.predictor import Predictor
from recap.reporting import Say
from recap.storage import atomic_write, writing


def predict_files(
    predictor: Predictor,
    inputs: Sequence[str],
    output: Path,
    schema_path: str | None = None,
    *,
    null_values: Sequence[str] = (),
    overwrite: bool = False,
    after_rows: Callable[[int], None] = lambda rows: None,
    say: Say = lambda text: None,
) -> list[Path]:
    """Write a file for each input file: for every row the carried columns, the prediction of each task, and the score.

    Each input is read in the format of its extension. `schema_path`: the JSON file that lists the columns of TFRecord
    files, by default that of the training data. `null_values`: texts that mean null in CSV, besides those of the
    training data. Output files keep their path below the common folder of the inputs and are written atomically. Raises
    DataError for inputs that cannot be read, InputError if an output exists or two inputs would have the same output,
    and RunError if one cannot be written. Shows the features with the most unknown values at the end; raises DataError,
    after all files are written, if they exceed `features.max_unknown`.
    """
    training_source = predictor.config.train_data.source
    if schema_path is None and isinstance(training_source, TfRecordConfig):
        schema_path = training_source.schema_path
    files = TableFiles.open(inputs, schema_path, predictor.encoder.types, training_source, null_values)
    target_of = output_files(files.files, output, ".parquet")
    targets = list(target_of.values())
    _check_targets(targets, overwrite=overwrite)
    for file in files.files:
        _check(predictor, files.schema(file), file)
    _make_folders(targets)
    coverage, written = Coverage(predictor.encoder), 0
    try:
        for carried, group in groupby(files.files, lambda file: _carried(predictor, files.schema(file))):
            columns = [*predictor.encoder.columns, *map(source_column, carried)]
            for file, tables in files.tables_by_file(columns, list(group)):
                schema = _output_schema(carried, predictor.config.tasks, files.schema(file), file)
                with writing(target_of[file]), atomic_write(target_of[file]) as temporary:
                    _predict_file(predictor, carried, tables, temporary, schema, coverage, after_rows)
                written += 1
    except RecapError:
        if written:
            say(f"{written:,} of {len(targets):,} files are written and complete; --overwrite replaces them")
        raise
    text = describe(coverage.result(), coverage.rows)
    if text is not None:
        say(text)
    name = f"{output}: all files are written, but in the inputs"
    check_known(coverage.result(), predictor.config.features.max_unknown, name)
    return targets


def _check_targets(targets: Sequence[Path], *, overwrite: bool) -> None:
    """Raise InputError for an output that exists and may not be replaced."""
    for target in targets:
        if os.path.lexists(target) and not overwrite:
            raise InputError(f"{target}: already exists; add --overwrite to replace it, or choose another --output")


def _make_folders(targets: Sequence[Path]) -> None:
    """Create the folders of the output files. Raises InputError."""
    for folder in {target.parent: None for target in targets}:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"--output: cannot create the folder {folder} ({error.strerror}); choose another"
            ) from None


def _check(predictor: Predictor, schema: pa.Schema, file: str) -> None:
    predictor.encoder.check(schema, file)
    carried = _carried(predictor, schema)
    for column in predictor.config.features.ids:
        if column not in carried:
            text = "is missing, but predictions carry features.ids; add it, or leave it out with --set features.ids=[…]"
            raise Location(file).error(source_column(column), text)
    _output_schema(carried, predictor.config.tasks, schema, file)


def _carried(predictor: Predictor, schema: pa.Schema) -> list[CarriedColumn]:
    """The columns copied from a file: `features.ids`, and `user` and `timestamp` if the file has them."""
    features = predictor.config.features
    return [column for column in features.carried if source_column(column) in schema.names]


def _output_schema(carried: Sequence[CarriedColumn], tasks: Sequence[str], schema: pa.Schema, file: str) -> pa.Schema:
    """The columns of the predictions for a file with the columns of `schema`.

    Raises DataError for a column that Parquet cannot store.
    """
    empty = empty_table({name: schema.field(name).type for name in map(source_column, carried)})
    fields: list[pa.Field] = []
    for column in carried:
        field = pa.field(column.name, carried_values(empty, column, Location(file)).type)
        try:
            pq.ParquetWriter(pa.BufferOutputStream(), pa.schema([field])).close()
        except pa.ArrowNotImplementedError:
            text = f"holds {field.type}, which Parquet cannot store; leave it out with --set features.ids=[…]"
            raise Location(file).error(source_column(column), text) from None
        fields.append(field)
    fields += [pa.field(task, pa.float32()) for task in tasks]
    return pa.schema([*fields, pa.field(SCORE, pa.float64())])


def _predict_file(
    predictor: Predictor,
    carried: Sequence[CarriedColumn],
    tables: Iterable[tuple[Chunk, pa.Table]],
    target: Path,
    schema: pa.Schema,
    coverage: Coverage,
    after_rows: Callable[[int], None],
) -> None:
    with pq.ParquetWriter(target, schema, compression="zstd") as writer:
        for chunk, table in tables:
            location = chunk.location()
            predictions = predictor.predict(table, location, coverage)
            copied = [carried_values(table, column, location) for column in carried]
            writer.write_table(pa.Table.from_arrays([*copied, *predictions.columns()], schema=schema))
            after_rows(table.num_rows)
