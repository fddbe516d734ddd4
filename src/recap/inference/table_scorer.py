"""`recap.Scorer`: scores tables in memory: Arrow, pandas, Polars, or lists of dicts."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import pyarrow as pa

from recap.config.checks.common import SCORE
from recap.config.recap import RecapConfig
from recap.config.training import InferencePrecision
from recap.data.encoding.columns import carried_values, source_column
from recap.data.encoding.encoder import RowEncoder
from recap.data.formats.location import Location
from recap.errors import InputError
from recap.inference.predictor import Predictions, Predictor
from recap.runs import Run, Step, find_model_directory
from recap.text import shorten

Table = TypeVar("Table")
_TABLE = "table"
"""Stands for the file name in errors."""


class Predicts(Protocol):
    """What scores tables: a `Predictor`, or an exported model."""

    config: RecapConfig
    encoder: RowEncoder

    def predict(self, table: pa.Table, location: Location) -> Predictions:
        """Score every row of `table`."""
        ...


class TableScorer:
    """Scores tables with the model of a model directory, exactly as evaluation and `recap predict` do.

    >>> scorer = recap.Scorer.open("runs/simulated", step="best")
    >>> scorer([{"age_hours": 2.0, "language": "en"}])
    [{'is_favorited': 0.031, 'is_reported': 0.0002, 'score': 0.0165}]
    """

    def __init__(self, predictor: Predicts) -> None:
        if isinstance(predictor, str | Path | Run):
            path = str(Run(predictor).path)
            raise InputError(f"recap.Scorer: open a model directory or a run with recap.Scorer.open({path!r})")
        self._predictor = predictor
        self.config = predictor.config

    @classmethod
    def open(
        cls,
        path: str | Path | Run,
        step: Step | None = None,
        overrides: Sequence[str] = (),
        precision: InferencePrecision = "float32",
    ) -> Self:
        """Open a model directory, or a checkpoint of a run: that of `step`, by default the latest.

        `overrides`, such as `scoring.weights.like=2`, change its configuration. `precision`: `float32` agrees with
        evaluation exactly; `bf16` and `int8` are faster; `auto` is bf16 where the hardware has it. Raises
        CheckpointError if the model is missing or damaged, ConfigError for overrides that would give its weights
        another meaning, InputError for a precision that is unknown or that the hardware lacks.
        """
        return cls(Predictor.open(find_model_directory(Run(path).path, step), overrides, precision=precision))

    @property
    def tasks(self) -> list[str]:
        """The tasks, in the order of their columns in results."""
        return self.config.tasks

    @property
    def columns(self) -> list[str]:
        """The columns that a table must have; others are ignored."""
        return self._predictor.encoder.columns

    def __call__(self, table: Table) -> Table:
        """Score every row of `table`: a `pyarrow.Table`, a pandas or Polars DataFrame, or a list of dicts.

        Columns that are not read may hold anything. NaN and None are null; every dict must have all of `columns`.

        The result is of the same kind, with the rows in the same order (in pandas with the same index). Its columns are
        those of `features.ids`, `user` and `timestamp` that the table has; for each task the calibrated probability or,
        for a regression, the value in the unit of its label (float32); and `score` (float64). Raises DataError for a
        missing column or a wrong value, with its row, and InputError for another kind of table.
        """
        arrow, convert_back = self._as_arrow(table)
        result: Table = convert_back(self._score(arrow))
        return result

    def _score(self, table: pa.Table) -> pa.Table:
        location = Location(_TABLE)
        self._predictor.encoder.check(table.schema, _TABLE)
        predictions = self._predictor.predict(table, location)
        columns = {
            column.name: carried_values(table, column, location)
            for column in self.config.features.carried
            if source_column(column) in table.column_names
        }
        columns |= dict(zip((*self.tasks, SCORE), predictions.columns(), strict=True))
        return pa.table(columns)

    def _as_arrow(self, table: Any) -> tuple[pa.Table, Callable[[pa.Table], Any]]:
        """A table as an Arrow table, and a function that converts results to its kind. Raises InputError, DataError."""
        if isinstance(table, pa.Table):
            return table, lambda result: result
        if isinstance(table, list):
            return self._rows_as_arrow(table), lambda result: result.to_pylist()
        library = type(table).__module__.partition(".")[0]
        if library == "pandas" and hasattr(table, "columns"):
            return self._frame_as_arrow(table), lambda result: result.to_pandas().set_axis(table.index)
        if library == "polars" and hasattr(table, "to_arrow") and hasattr(table, "columns"):
            names = [name for name in self._names if name in table.columns]
            return table.select(names).to_arrow(), type(table)
        advice = "put it in a list" if isinstance(table, Mapping) else f"give {_KINDS}"
        raise InputError(f"cannot score a value of type {type(table).__name__}; {advice}")

    @property
    def _names(self) -> list[str]:
        """The columns that are read: those that a table must have, and those that results repeat."""
        return list(dict.fromkeys([*self.columns, *map(source_column, self.config.features.carried)]))

    def _rows_as_arrow(self, rows: Sequence[Any]) -> pa.Table:
        """Rows as an Arrow table; each must have all of `columns`. NaN and None are null."""
        for number, row in enumerate(rows):
            if not isinstance(row, Mapping):
                raise InputError(f"row {number}: cannot score a value of type {type(row).__name__}; give {_KINDS}")
            for name in self.columns:
                if name not in row:
                    raise Location(_TABLE).error(name, "is missing; use None where there is no value", [number])
        names = [name for name in self._names if name in self.columns or any(name in row for row in rows)]
        return pa.table({name: self._column(name, [row.get(name) for row in rows]) for name in names})

    def _frame_as_arrow(self, frame: Any) -> pa.Table:
        """The columns of a pandas DataFrame that are read, as an Arrow table. NaN and None are null."""
        columns = list(frame.columns)
        for name in self._names:
            if columns.count(name) > 1:
                raise Location(_TABLE).error(name, "appears twice, so it is ambiguous; rename one")
        return pa.table({name: self._column(name, frame[name]) for name in self._names if name in columns})

    def _column(self, name: str, values: Any) -> pa.Array:
        """Values of Python or pandas as an Arrow array. Raises DataError with the first row that does not fit."""
        location = Location(_TABLE)
        try:
            array = pa.array(values, from_pandas=True)
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            row, text = _first_misfit(list(values))
            raise location.error(name, text, row) from None
        if isinstance(array, pa.ChunkedArray):  # from text in pandas
            array = array.combine_chunks()
        expected = self._predictor.encoder.types.get(name)
        if pa.types.is_null(array.type):
            return array.cast(expected or pa.string())
        if pa.types.is_list(array.type) and pa.types.is_null(array.type.value_type):
            return array.cast(expected or pa.list_(pa.string()))
        if expected is not None and pa.types.is_integer(expected) and pa.types.is_floating(array.type):
            # Integers with missing values are floats in pandas, and JSON does not tell integers from floats.
            fractions = [row for row, value in enumerate(array.to_pylist()) if value is not None and value % 1 != 0]
            if fractions:
                raise location.error(name, f"found {array[fractions[0]]}, expected a whole number", fractions)
            return array.cast(expected)
        return array


_KINDS = "a pyarrow.Table, a pandas or Polars DataFrame, or a list of dicts"


def _first_misfit(values: Sequence[Any]) -> tuple[list[int], str]:
    """The first row whose value does not fit the type of the values before it, and the text of its error."""
    fitting: Any = None
    for row, value in enumerate(values):
        try:
            pa.array([fitting, value], from_pandas=True)
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            return [row], f"found {shorten(repr(value))}, which does not fit the other values of the column"
        fitting = fitting if value is None else value
    return [], "holds values whose types do not fit together"
