"""Bulk prediction: Parquet in, Parquet out, a file for each input file, a row group at a time."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from recap.data.schema import Place
from recap.data.sources.parquet import find_files, open_parquet, read_row_group
from recap.errors import DataError, InputError
from recap.inference.predictor import Predictor

SCORE = "score"
ROWS_AT_ONCE = 8192


def predict_files(
    predictor: Predictor,
    inputs: Sequence[str],
    output: Path,
    *,
    overwrite: bool = False,
    after_rows: Callable[[int], None] = lambda rows: None,
) -> list[Path]:
    """Write, for each file of `inputs`, the carried columns, each task's probability and `score`, row for row.

    Output files keep their path below the common folder of the inputs. Each appears whole or not at all. Raises
    DataError for inputs that cannot be read and InputError where an output is already there.
    """
    files = find_files(inputs)
    folder = os.path.commonpath([os.path.dirname(os.path.abspath(file)) for file in files])
    targets = [output / os.path.relpath(os.path.abspath(file), folder) for file in files]
    present = [target for target in targets if target.exists()]
    if present and not overwrite:
        raise InputError(f"{present[0]}: already there; add --overwrite to replace it, or choose another --output")
    for file in files:
        _check(predictor, file)
    for file, target in zip(files, targets, strict=True):
        _predict_file(predictor, file, target, after_rows)
    return targets


def _check(predictor: Predictor, file: str) -> None:
    schema = open_parquet(file).schema_arrow
    predictor.encoder.check(schema, file)
    for name in predictor.config.features.carried:
        if schema.get_field_index(name) < 0:
            text = "is missing; features.ids, user and timestamp are carried to the predictions"
            raise Place(file).error(name, text)
    for name in (*predictor.config.tasks, SCORE):
        if name in predictor.config.features.carried:
            raise DataError(f"{file}: column {name!r} is both carried along and predicted; rename it")


def _predict_file(predictor: Predictor, file: str, target: Path, after_rows: Callable[[int], None]) -> None:
    config = predictor.config
    carried = config.features.carried
    opened = open_parquet(file)
    fields = [opened.schema_arrow.field(name) for name in carried]
    fields += [pa.field(task, pa.float32()) for task in config.tasks]
    schema = pa.schema([*fields, pa.field(SCORE, pa.float64())])
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(target.name + ".unfinished")
    try:
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            first_row = 0
            for row_group in range(opened.metadata.num_row_groups):
                table = read_row_group(file, row_group, [*predictor.encoder.columns, *carried])
                if table.num_rows:
                    predictions = predictor.predict(table, Place(file, first_row), ROWS_AT_ONCE)
                    columns = [table.column(name) for name in carried]
                    columns += [pa.array(column.numpy()) for column in predictions.probabilities.T.contiguous()]
                    columns.append(pa.array(predictions.scores.numpy()))
                    writer.write_table(pa.Table.from_arrays(columns, schema=schema))
                first_row += table.num_rows
                after_rows(table.num_rows)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
