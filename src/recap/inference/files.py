"""Bulk prediction: files in, Parquet out, one for each input file, a chunk at a time."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from recap.config.data import TfRecordConfig
from recap.data.encoding.columns import carried_values, source_of
from recap.data.formats.files import find_files, relative_names
from recap.data.formats.format import Format
from recap.data.formats.location import Location
from recap.data.formats.open import chunks_of, guess_source, open_format, stem
from recap.errors import DataError, InputError
from recap.inference.predictor import Predictor

SCORE = "score"
ROWS_AT_ONCE = 8192


def predict_files(
    predictor: Predictor,
    inputs: Sequence[str],
    output: Path,
    schema_path: str | None = None,
    *,
    overwrite: bool = False,
    after_rows: Callable[[int], None] = lambda rows: None,
) -> list[Path]:
    """Write, for each file of `inputs`, the carried columns, each task's probability or value and `score`, row for row.

    The format is told by how the files are called; the columns of TFRecord files by `schema_path`, or else by the
    schema file that the model was trained with. Output files keep their path below the common folder of the inputs.
    Each appears whole or not at all. Raises DataError for inputs that cannot be read and InputError where an output is
    already there.
    """
    files = find_files(inputs)
    trained_on = predictor.config.train_data.source
    if schema_path is None and isinstance(trained_on, TfRecordConfig):
        schema_path = trained_on.schema_path
    format_ = open_format(guess_source(inputs, schema_path), predictor.encoder.types, files)
    targets = [output / f"{stem(name)}.parquet" for name in relative_names(files)]
    present = [target for target in targets if target.exists()]
    if present and not overwrite:
        raise InputError(f"{present[0]}: already there; add --overwrite to replace it, or choose another --output")
    for file in files:
        _check(predictor, format_, file)
    for file, target in zip(files, targets, strict=True):
        _predict_file(predictor, format_, file, target, after_rows)
    return targets


def _check(predictor: Predictor, format_: Format, file: str) -> None:
    schema = format_.schema(file)
    predictor.encoder.check(schema, file)
    carried = predictor.config.features.carried
    for column in carried:
        if schema.get_field_index(source_of(column)) < 0:
            text = "is missing; features.ids, user and timestamp are carried to the predictions"
            raise Location(file).error(source_of(column), text)
    for name in (*predictor.config.tasks, SCORE):
        if name in [column.name for column in carried]:
            raise DataError(f"{file}: column {name!r} is both carried along and predicted; rename it")


def _predict_file(
    predictor: Predictor, format_: Format, file: str, target: Path, after_rows: Callable[[int], None]
) -> None:
    config = predictor.config
    carried = config.features.carried
    read = format_.schema(file)
    empty = read.empty_table()
    fields = [pa.field(column.name, carried_values(empty, column, Location(file)).type) for column in carried]
    fields += [pa.field(task, pa.float32()) for task in config.tasks]
    schema = pa.schema([*fields, pa.field(SCORE, pa.float64())])
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(target.name + ".unfinished")
    try:
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for chunk in chunks_of(format_, file):
                table = format_.read(file, chunk.number, [*predictor.encoder.columns, *map(source_of, carried)])
                place = Location(file, chunk.first_row)
                predictions = predictor.predict(table, place, ROWS_AT_ONCE)
                columns = [carried_values(table, column, place) for column in carried]
                columns += [pa.array(column.numpy()) for column in predictions.probabilities.T.contiguous()]
                columns.append(pa.array(predictions.scores.numpy()))
                writer.write_table(pa.Table.from_arrays(columns, schema=schema))
                after_rows(table.num_rows)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
