"""`recap.Scorer`: a trained model that scores tables in memory, of the kinds that Python programs hold."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import pyarrow as pa

from recap.data.encoding.columns import carried_values, source_of
from recap.data.formats.location import Location
from recap.errors import InputError
from recap.inference.predictor import Predictor
from recap.runs import Step, find_model_directory

SCORE = "score"
ROWS_AT_ONCE = 8192
"""Rows of one forward pass, which bounds memory."""
Table = TypeVar("Table")
_TABLE = "table"
"""Where an error was found, in the place of a file name."""


class TableScorer:
    """Scores tables with a model directory, on the path that evaluation and `recap predict` use.

    >>> scorer = recap.Scorer.open("runs/simulated", step="best")
    >>> scorer([{"age_hours": 2.0, "language": "en"}])
    [{'is_favorited': 0.031, 'is_reported': 0.0002, 'score': 0.0165}]
    """

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self.config = predictor.config

    @classmethod
    def open(cls, path: str | Path, step: Step | None = None, overrides: Sequence[str] = ()) -> Self:
        """Open a model directory, or the checkpoint of `step` of a run: by default the latest.

        `overrides` (`scoring.weights.like=2`) change its configuration. Raises CheckpointError where the model is
        missing or damaged, ConfigError for overrides that would give its weights another meaning.
        """
        return cls(Predictor.open(find_model_directory(Path(path), step), overrides))

    @property
    def tasks(self) -> list[str]:
        """The tasks, in the order of their columns in a result."""
        return self.config.tasks

    @property
    def columns(self) -> list[str]:
        """The columns that a table must have. Others are ignored."""
        return self._predictor.encoder.columns

    def __call__(self, table: Table) -> Table:
        """Score every row of `table`: a `pyarrow.Table`, a pandas or Polars DataFrame, or a list of dicts.

        The result is of the same kind, with the same number and order of rows (and the same index in pandas). Its
        columns are those that predictions carry (`features.ids`, `user`, `timestamp`) as far as the table has them,
        then for each task the calibrated probability, or the value of a regression, in the unit of its label
        (float32), then `score` (float64). Raises DataError for a missing column or a wrong value, with its row;
        InputError for another kind of table.
        """
        arrow, back = self._converted(table)
        result: Table = back(self._scored(arrow))
        return result

    def _scored(self, table: pa.Table) -> pa.Table:
        location = Location(_TABLE)
        self._predictor.encoder.check(table.schema, _TABLE)
        predictions = self._predictor.predict(table, location, ROWS_AT_ONCE)
        columns = {
            column.name: carried_values(table, column, location)
            for column in self.config.features.carried
            if source_of(column) in table.column_names
        }
        probabilities = predictions.probabilities.T.contiguous()
        columns |= {task: pa.array(values.numpy()) for task, values in zip(self.tasks, probabilities, strict=True)}
        return pa.table(columns | {SCORE: pa.array(predictions.scores.numpy())})

    def _converted(self, table: Any) -> tuple[pa.Table, Callable[[pa.Table], Any]]:
        """A table as an Arrow table, and what turns a result back into its kind."""
        if isinstance(table, pa.Table):
            return table, lambda result: result
        if isinstance(table, list) and all(isinstance(row, Mapping) for row in table):
            return self._table_of(table), lambda result: result.to_pylist()
        library = type(table).__module__.partition(".")[0]
        if library == "pandas" and hasattr(table, "columns"):
            arrow = pa.Table.from_pandas(table, preserve_index=False)
            return arrow, lambda result: result.to_pandas().set_axis(table.index)
        if library == "polars" and hasattr(table, "to_arrow") and hasattr(table, "columns"):
            return table.to_arrow(), type(table)
        raise InputError(
            f"a {type(table).__name__} cannot be scored; give a pyarrow.Table, a pandas or Polars DataFrame, or a list "
            "of dicts"
        )

    def _table_of(self, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
        """Rows as a table; a key that a row lacks is null there, and a column that no row has is missing."""
        types = self._predictor.encoder.types
        names = dict.fromkeys(name for row in rows for name in row) if rows else self.columns
        columns = {}
        for name in names:
            values = [row.get(name) for row in rows]
            try:
                columns[name] = pa.array(values, types.get(name))
            except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
                raise Location(_TABLE).error(name, f"cannot be read: {error}") from None
        return pa.table(columns)
