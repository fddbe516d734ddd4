"""The file of a rival's predictions, and its evaluation on the rows and with the metrics of our own models."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from recap.config.recap import RecapConfig
from recap.data.encoding.assets import load_assets
from recap.data.open import open_split
from recap.distributed import ONE_RANK
from recap.errors import RunError
from recap.evaluation.observers.metrics import Metrics, intervals_of
from recap.evaluation.result import SplitResult
from recap.evaluation.run import max_batches
from recap.reporting import Say
from recap.storage import atomic_write, writing
from recap.text import plural, suggest

PREDICTIONS_FILE = "predictions.parquet"
"""In the folder of a rival's run: a column for each task, and the rows of the split in their order."""
Predictions = npt.NDArray[np.float32]


def write_predictions(folder: Path, tasks: Sequence[str], values: Predictions) -> None:
    """Write predictions [N, tasks]. Raises RunError."""
    table = pa.table({task: values[:, index] for index, task in enumerate(tasks)})
    with writing(folder / PREDICTIONS_FILE) as file, atomic_write(file) as temporary:
        pq.write_table(table, temporary)


def read_predictions(file: Path, config: RecapConfig, tasks: Sequence[str], split: str, rows: int) -> Predictions:
    """Predictions [rows, tasks]. Raises RunError for a file, a column or a value that is none, or of other rows."""
    try:
        table = pq.read_table(file)
    except (OSError, pa.ArrowException) as error:
        raise RunError(f"{file}: cannot be read as Parquet ({error})") from None
    if table.num_rows != rows:
        raise RunError(
            f"{file}: has {plural(table.num_rows, 'row')}, and {split} has {rows:,}; write one for each row, in their "
            "order: files by name, and rows as in the files"
        )
    columns = []
    for task in tasks:
        if task not in table.column_names:
            raise RunError(f"{file}: column {task!r} is missing. {suggest(task, table.column_names)}")
        try:
            column = pc.cast(table.column(task), pa.float64()).to_numpy()  # null → NaN
        except pa.ArrowException:
            kind = table.column(task).type
            raise RunError(f"{file}: column {task!r} has type {kind}; expected a number for each row") from None
        low, high = (-np.inf, np.inf) if task in config.regressions else (0.0, 1.0)
        wrong = np.flatnonzero(~(np.isfinite(column) & (column >= low) & (column <= high)))
        if len(wrong):
            expected = "a finite number" if task in config.regressions else "a probability from 0 to 1"
            raise RunError(f"{file}: column {task!r}, row {wrong[0]}: expected {expected}, found {column[wrong[0]]}")
        columns.append(column)
    return np.stack(columns, axis=1).astype(np.float32)


def evaluate_predictions(config: RecapConfig, file: Path, split: str, say: Say) -> SplitResult:
    """The metrics of the predictions in `file`, as `recap evaluate` computes them of a model.

    Raises RunError for predictions that are not those of the rows of the split.
    """
    tasks = config.evaluated_tasks(split)
    stream = open_split(config, load_assets(config.features), split, say)
    values = read_predictions(file, config, tasks, split, stream.order.rows)
    predictions = np.zeros((len(values), len(config.tasks)), np.float32)
    predictions[:, [config.tasks.index(task) for task in tasks]] = values
    metrics, start = Metrics(config, split, ONE_RANK), 0
    for batch in islice(stream, max_batches(config)):
        metrics.add(batch, torch.from_numpy(predictions[start : start + len(batch)]))
        start += len(batch)
        if stream.skipped:
            raise RunError(f"{split}: bad rows were skipped, so rows and predictions do not match; fix the data")
    computed = metrics.computed
    return SplitResult(
        computed.metrics,
        intervals=intervals_of(computed.estimates),
        users=computed.users,
        rows=metrics.fingerprint,
        estimates=computed.estimates,
    )
