"""Bulk prediction: files in, one Parquet file out for each, a chunk at a time."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from recap.config.data import TfRecordConfig
from recap.data.encoding.columns import carried_values, source_of
from recap.data.formats.files import relative_names
from recap.data.formats.location import Location
from recap.data.formats.open import Chunk, stem
from recap.data.formats.tables import TableFiles
from recap.errors import DataError, InputError
from recap.inference.predictor import Predictor
from recap.storage import atomic_write

SCORE = "score"
MAX_ROWS = 8192
"""Rows in one pass of the model."""


def predict_files(
    predictor: Predictor,
    inputs: Sequence[str],
    output: Path,
    schema_path: str | None = None,
    *,
    overwrite: bool = False,
    after_rows: Callable[[int], None] = lambda rows: None,
) -> list[Path]:
    """Write a file for each input file: row for row the carried columns, each task's probability or value, and `score`.

    File names tell the format. `schema_path` lists the columns of TFRecord files (default: the schema file of the
    training data). Output files keep their path below the common folder of the inputs, and each is written atomically.
    Raises DataError for inputs that cannot be read and InputError if an output exists.
    """
    trained_on = predictor.config.train_data.source
    if schema_path is None and isinstance(trained_on, TfRecordConfig):
        schema_path = trained_on.schema_path
    files = TableFiles.open(inputs, schema_path, predictor.encoder.types)
    targets = [output / f"{stem(name)}.parquet" for name in relative_names(files.files)]
    present = [target for target in targets if target.exists()]
    if present and not overwrite:
        raise InputError(f"{present[0]}: already exists; add --overwrite to replace it, or choose another --output")
    for file in files.files:
        _check(predictor, files.schema(file), file)
    columns = [*predictor.encoder.columns, *map(source_of, predictor.config.features.carried)]
    for (file, tables), target in zip(files.tables_by_file(columns), targets, strict=True):
        schema = _output_schema(predictor, files.schema(file), file)
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(target) as temporary:
            _predict_file(predictor, tables, temporary, schema, after_rows)
    return targets


def _check(predictor: Predictor, schema: pa.Schema, file: str) -> None:
    predictor.encoder.check(schema, file)
    carried = predictor.config.features.carried
    for column in carried:
        if schema.get_field_index(source_of(column)) < 0:
            text = "is missing; features.ids, user and timestamp are carried to the predictions"
            raise Location(file).error(source_of(column), text)
    for name in (*predictor.config.tasks, SCORE):
        if name in [column.name for column in carried]:
            raise DataError(f"{file}: column {name!r} is both carried along and predicted; rename it")


def _output_schema(predictor: Predictor, schema: pa.Schema, file: str) -> pa.Schema:
    """The columns of the predictions for a file with the columns of `schema`."""
    config, empty = predictor.config, schema.empty_table()
    carried = config.features.carried
    fields = [pa.field(column.name, carried_values(empty, column, Location(file)).type) for column in carried]
    fields += [pa.field(task, pa.float32()) for task in config.tasks]
    return pa.schema([*fields, pa.field(SCORE, pa.float64())])


def _predict_file(
    predictor: Predictor,
    tables: Iterable[tuple[Chunk, pa.Table]],
    target: Path,
    schema: pa.Schema,
    after_rows: Callable[[int], None],
) -> None:
    with pq.ParquetWriter(target, schema, compression="zstd") as writer:
        for chunk, table in tables:
            location = Location(chunk.file, chunk.first_row)
            predictions = predictor.predict(table, location, MAX_ROWS)
            columns = [carried_values(table, column, location) for column in predictor.config.features.carried]
            columns += [pa.array(column.numpy()) for column in predictions.probabilities.T.contiguous()]
            columns.append(pa.array(predictions.scores.numpy()))
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
            after_rows(table.num_rows)
