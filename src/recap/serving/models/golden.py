"""`golden.json`: sample rows of a model with their predictions, which a server must reproduce before it serves them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, ValidationError

from recap.data.formats.tables import TableFiles
from recap.errors import CheckpointError, InputError
from recap.inference.requests import RequestScorer
from recap.storage import add_file, read_manifest, read_regular
from recap.text import shorten

GOLDEN = "golden.json"
ROWS = 100
"""Rows of a sample."""
ABSOLUTE, RELATIVE = 1e-5, 1e-4
"""|prediction − golden| ≤ ABSOLUTE + RELATIVE · |golden| in float32: machines sum in different orders."""
COARSE = 300
"""Factor of both for other precisions, which keep 8 bits."""
_MAX_BYTES = 1 << 26


class Golden(BaseModel):
    """The content of `golden.json`: values by column, and calibrated predictions by task."""

    model_config = ConfigDict(extra="forbid", strict=True)

    rows: dict[str, list[Any]]
    predictions: dict[str, list[float]]


def write_golden(folder: Path, inputs: Sequence[str], schema_path: str | None = None) -> int:
    """Write the first rows of `inputs` with their predictions into a model directory; return how many.

    Raises DataError for inputs that cannot be read, InputError if they have no rows.
    """
    scorer = RequestScorer.open(folder)
    source = scorer.config.train_data.source
    files = TableFiles.open(inputs, schema_path, dict(scorer.schema), source, ())
    parts, count = [], 0
    for file in files.files:
        scorer.predictor.encoder.check(files.schema(file), file)
    for _, part in files.tables(list(scorer.schema)):
        parts.append(part.slice(0, ROWS - count))
        count += parts[-1].num_rows
        if count == ROWS:
            break
    if not count:
        raise InputError(f"{', '.join(inputs)}: no rows; give a file with rows of the training or validation data")
    table = pa.concat_tables(parts, promote_options="permissive")
    rows = {name: column.to_pylist() for name, column in zip(table.column_names, table.columns, strict=True)}
    rows = json.loads(_text(rows))
    predictions = _predict(scorer, _table(scorer, rows))
    content = {"rows": rows, "predictions": {name: values.tolist() for name, values in predictions.items()}}
    add_file(folder, GOLDEN, _text(content) + "\n")
    return count


def read_golden(folder: Path) -> Golden | None:
    """The sample of a model directory, whose manifest is verified; None without one. Raises CheckpointError."""
    if GOLDEN not in read_manifest(folder).files:
        return None
    file = folder / GOLDEN
    try:
        return Golden.model_validate_json(read_regular(file, _MAX_BYTES))
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror})") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise CheckpointError(f"{file}: {shorten(first['msg'], 200)}; {_AGAIN}") from None


def check_golden(scorer: RequestScorer, golden: Golden, folder: Path, *, coarse: bool = False) -> None:
    """Raise CheckpointError, which shows the largest difference, unless `scorer` reproduces the predictions."""
    file, factor = folder / GOLDEN, COARSE if coarse else 1
    if set(golden.predictions) != set(scorer.config.tasks):
        raise CheckpointError(f"{file}: has predictions of other tasks than the model; {_AGAIN}")
    try:
        predictions = _predict(scorer, _table(scorer, golden.rows))
    except (pa.ArrowException, InputError, ValueError, TypeError, OverflowError) as error:
        raise CheckpointError(f"{file}: its rows are not rows of this model ({error}); {_AGAIN}") from None
    for task, actual in predictions.items():
        expected = np.asarray(golden.predictions[task], np.float64)
        if expected.shape != actual.shape:
            raise CheckpointError(f"{file}: has {len(actual)} rows, but {len(expected)} predictions; {_AGAIN}")
        excess = np.abs(actual - expected) - factor * (ABSOLUTE + RELATIVE * np.abs(expected))
        worst = int(np.argmax(np.nan_to_num(excess, nan=np.inf)))
        if not excess[worst] <= 0:
            raise CheckpointError(
                f"{file}: row {worst}: {task} is {actual[worst]:.6g}, expected {expected[worst]:.6g}; the model does "
                f"not predict what it did when the file was written. If that is wanted, {_AGAIN}"
            )


_AGAIN = "write it again with 'recap model golden'"


def _predict(scorer: RequestScorer, table: pa.Table) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
    """Task → its predictions [rows]."""
    (predictions,) = scorer.score([scorer.encode(pa.table({}), table)])
    columns = predictions.probabilities.double().numpy().T
    return dict(zip(scorer.config.tasks, columns, strict=True))


def _table(scorer: RequestScorer, rows: dict[str, list[Any]]) -> pa.Table:
    missing = [name for name in scorer.schema if name not in rows]
    if missing:
        raise InputError(f"no column {missing[0]}")
    return pa.table({name: _column(rows[name], kind) for name, kind in scorer.schema.items()})


def _column(values: list[Any], kind: pa.DataType) -> pa.Array:
    """Values of their own type, since ids may be numbers or text; of type `kind` where no value tells the type."""
    column = pa.array(values)
    return pa.array(values, kind) if "null" in str(column.type) else column


def _text(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"), default=_as_text)


def _as_text(value: Any) -> Any:
    """Bytes that are text, and times, as text."""
    return value.decode() if isinstance(value, bytes) else str(value)
