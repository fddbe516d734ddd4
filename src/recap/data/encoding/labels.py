"""What training and evaluation read besides the features: labels, their weights, users, and lists."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from recap.config.data import DataConfig, DataTaskConfig, RectifyLabelsConfig
from recap.config.evaluation.strata import HoursStratum, PeriodStratum
from recap.config.features import Column
from recap.config.loss import ColumnTeacherConfig, RegressionConfig
from recap.config.recap import JobMode, RecapConfig
from recap.data.encoding.columns import (
    Floats,
    check_zero_or_one,
    milliseconds,
    numbers_of,
    rows_where,
    values_of,
)
from recap.data.encoding.hashing import hash_ids, ids_of
from recap.data.formats.location import Location

_DAY = 86_400_000
"""Milliseconds."""
_SECONDS_FROM, _SECONDS_TO = 10**9, 10**11
"""Seconds from 2001 on; as milliseconds they would be in early 1970 to 1973."""


@dataclass(frozen=True, eq=False)
class LabelEncoder:
    """Turns label columns of a table into labels and weights [B, T], and columns of ids into users and lists [B]."""

    tasks: Sequence[str]
    """The task axis T."""
    labels: Mapping[str, DataTaskConfig]
    """Task → its label column and down-sampling rates. Other tasks have no label in this data set."""
    rectify: RectifyLabelsConfig | None = None
    """How to turn late positives into negatives; None: not at all."""
    regressions: Mapping[str, RegressionConfig] = field(default_factory=dict)
    """The tasks whose labels are numbers; all other labels are 0 or 1."""
    weigh_samples: bool = False
    """Whether weights undo down-sampling."""
    weight: str | None = None
    """The column of the weights of the rows, for tasks without their own."""
    teachers: Mapping[str, str] = field(default_factory=dict)
    """Task → the column of a teacher's predictions, for the tasks that read one."""
    user: str | None = None
    """The user column."""
    request: str | None = None
    """The request column; only if a list holds the rows of a request, or a loss compares them."""
    lists_are_requests: bool = False
    """Whether a list holds the rows of a request."""
    compares_requests: bool = False
    """Whether a loss compares the rows of a request."""
    timestamp: str | None = None
    """The column of times; only if a list holds the rows of a user and day."""
    strata_time: str | None = None
    """The column of times; only if a stratum selects by time."""

    @classmethod
    def for_job(cls, config: RecapConfig, mode: JobMode, data: DataConfig) -> "LabelEncoder":
        """The labels of `data`, for training or evaluation.

        In evaluation, weights undo down-sampling; in training they do if `sampling_correction` is `weights`.
        """
        objectives = {name: task.objective for name, task in config.model.tasks.items()}
        lists = config.lists if mode is JobMode.EVALUATE else None
        teachers = {name: task.distillation for name, task in config.model.tasks.items()}
        compared = [loss.group for task in config.model.tasks.values() for loss in task.ranking_losses.values()]
        compares = "request" in compared
        return cls(
            config.tasks,
            data.labels,
            data.rectify_labels,
            {name: objective for name, objective in objectives.items() if isinstance(objective, RegressionConfig)},
            weigh_samples=mode is not JobMode.TRAIN or config.train_data.sampling_correction == "weights",
            weight=data.weight,
            teachers={
                name: teacher.column
                for name, teacher in teachers.items()
                if isinstance(teacher, ColumnTeacherConfig) and mode is JobMode.TRAIN
            },
            user=config.features.user,
            request=config.features.request if lists == "request" or compares else None,
            lists_are_requests=lists == "request",
            compares_requests=compares,
            timestamp=config.features.timestamp if lists == "user_day" else None,
            strata_time=config.features.timestamp if mode is JobMode.EVALUATE and _by_time(config) else None,
        )

    @property
    def columns(self) -> list[str]:
        """The columns this encoder reads."""
        names = [self._column(task) for task in self.tasks if task in self.labels]
        names += [*self._times, *self._weight_columns]
        names += self.teachers.values()
        ids = (self.user, self.request, self.timestamp, self.strata_time)
        return [*names, *(name for name in ids if name is not None)]

    @property
    def types(self) -> dict[str, pa.DataType]:
        """Column → the type to read it as, in formats that do not store types."""
        numbers = [*map(self._column, self.labels), *self._weight_columns, *self.teachers.values()]
        times = [*self._times, *(name for name in (self.timestamp, self.strata_time) if name is not None)]
        types = dict.fromkeys(numbers, pa.float64()) | dict.fromkeys(times, pa.int64())
        return types | {name: pa.string() for name in (self.user, self.request) if name is not None}

    def _column(self, task: str) -> str:
        return self.labels[task].column or task

    def _weight_column(self, task: str) -> str | None:
        return self.labels[task].weight or self.weight

    @property
    def _weight_columns(self) -> list[str]:
        columns = map(self._weight_column, (task for task in self.tasks if task in self.labels))
        return list(dict.fromkeys(column for column in columns if column is not None))

    @property
    def _times(self) -> list[str]:
        """The columns of times, in milliseconds, that rectification reads."""
        if self.rectify is None:
            return []
        engaged = [column for task, column in self.rectify.engaged_at.items() if task in self.labels]
        return [self.rectify.served_at, self.rectify.impressed_at, *engaged] if engaged else []

    def encode(self, table: pa.Table, location: Location) -> tuple[Tensor, Tensor]:
        """Labels and weights, [B, T] float32 each; both are 0 where a label is missing.

        A null label is missing, and so are all labels of tasks that have none in this data set. Raises DataError for
        wrong types and values, with all bad rows.
        """
        labels = self._encode(table, location)
        weights = self._weights(labels, table, location)
        return torch.from_numpy(np.nan_to_num(labels)), torch.from_numpy(weights)

    def _encode(self, table: pa.Table, location: Location) -> Floats:
        """[B, T] float32, NaN where a label is missing."""
        labels = np.full((table.num_rows, len(self.tasks)), np.nan, np.float32)
        for index, task in enumerate(self.tasks):
            if task in self.labels:
                column = self._column(task)
                values = numbers_of(table, Column(name=column), location, null=np.nan)
                at_least = self.labels[task].at_least
                if task in self.regressions:
                    _check_numbers(values, self.regressions[task], column, location)
                elif at_least is not None:
                    values = _reached(values, at_least, column, location)
                else:
                    hint = "a label must be 0 or 1, or null"
                    check_zero_or_one(values, column, location, hint)
                labels[:, index] = self._rectified(values[:, 0], task, table, location)
        return labels

    def _rectified(
        self, label: npt.NDArray[np.float32], task: str, table: pa.Table, location: Location
    ) -> npt.NDArray[np.float32]:
        """The labels of one task [B], with late positives turned into negatives."""
        if self.rectify is None or task not in self.rectify.engaged_at:
            return label
        positive = label == 1
        window = int(self.rectify.window_hours * 3_600_000)
        reason = ", but the label is 1; positives need all their times"
        served, impressed, engaged = (
            milliseconds(table, name, positive, location, reason)
            for name in (self.rectify.served_at, self.rectify.impressed_at, self.rectify.engaged_at[task])
        )
        late = positive & ~((impressed - served < window) & (engaged - served < window))
        return np.where(late, np.float32(0), label)

    def _weights(self, labels: Floats, table: pa.Table, location: Location) -> Floats:
        """[B, T] float32: the weight of the row over its sampling rate, both 1 by default; 0 where a label is NaN."""
        weights = np.ones_like(labels)
        for index, task in enumerate(self.tasks):
            if self.weigh_samples and task in self.labels and task not in self.regressions:
                rates = self.labels[task]
                label = labels[:, index]
                weights[:, index] = label / rates.pos_downsampling_rate + (1 - label) / rates.neg_downsampling_rate
        for column in self._weight_columns:
            tasks = [task in self.labels and self._weight_column(task) == column for task in self.tasks]
            weights[:, tasks] *= _row_weights(table, column, location)
        weights[np.isnan(labels)] = 0
        return weights

    def encode_teachers(self, table: pa.Table, location: Location) -> Tensor | None:
        """[B, T] float32, NaN where unknown; None if no task has a teacher. Raises DataError for impossible values."""
        if not self.teachers:
            return None
        predictions = np.full((table.num_rows, len(self.tasks)), np.nan, np.float32)
        for task, column in self.teachers.items():
            values = numbers_of(table, Column(name=column), location, null=np.nan)
            if task in self.regressions:
                _check_numbers(values, self.regressions[task], column, location)
            else:
                _check_probabilities(values, column, location)
            predictions[:, self.tasks.index(task)] = values[:, 0]
        return torch.from_numpy(predictions)

    def encode_users(self, table: pa.Table, location: Location) -> Tensor | None:
        """[B] int64, equal for equal ids, as in `ids_of`; None without a user column. Raises DataError."""
        return None if self.user is None else _ids(table, self.user, "user", location)

    def encode_requests(self, table: pa.Table, location: Location) -> Tensor | None:
        """[B] int64, equal for equal ids; None unless a loss compares the rows of a request. Raises DataError."""
        return _ids(table, self.request, "request", location) if self.request and self.compares_requests else None

    def encode_lists(self, table: pa.Table, location: Location) -> Tensor | None:
        """[B] int64, equal for the rows of one list; None if a list holds the rows of a user. Raises DataError.

        The ids of requests are those of `ids_of`; of a user and day, a hash of both. Days are in UTC.
        """
        if self.request is not None and self.lists_are_requests:
            return _ids(table, self.request, "request", location)
        if self.timestamp is None:
            return None
        assert self.user is not None
        users = _ids(table, self.user, "user", location).numpy()
        every, reason = np.ones(table.num_rows, np.bool_), "; every row needs a time, since lists are by user and day"
        times = milliseconds(table, self.timestamp, every, location, reason)
        return torch.from_numpy(hash_ids(hash_ids(users).view(np.int64) + times // _DAY).view(np.int64))

    def encode_times(self, table: pa.Table, location: Location) -> Tensor | None:
        """[B] int64, in milliseconds since 1970; None unless a stratum selects by time. Raises DataError."""
        if self.strata_time is None:
            return None
        every, reason = np.ones(table.num_rows, np.bool_), "; every row needs a time, since a stratum selects by it"
        times = milliseconds(table, self.strata_time, every, location, reason)
        in_seconds = rows_where((times >= _SECONDS_FROM) & (times < _SECONDS_TO))
        if in_seconds:
            text = f"holds {times[in_seconds[0]]}, a time in seconds by its size; strata by time need milliseconds"
            raise location.error(self.strata_time, text, in_seconds)
        return torch.from_numpy(times)


def _by_time(config: RecapConfig) -> bool:
    return any(isinstance(stratum, PeriodStratum | HoursStratum) for stratum in config.strata.values())


def _ids(table: pa.Table, column: str, role: str, location: Location) -> Tensor:
    """[B] int64. Raises DataError for nulls, and types that are no ids."""
    values, _ = values_of(table, column, 1, location)
    ids, missing = ids_of(values, column, location)
    if missing is not None:
        raise location.error(column, f"is null; every row needs a {role}", rows_where(missing))
    return torch.tensor(ids)  # a copy, since Arrow's memory is read-only


def _row_weights(table: pa.Table, column: str, location: Location) -> Floats:
    """[B, 1] float32. Raises DataError for weights that are missing, negative or not finite."""
    values = numbers_of(table, Column(name=column), location, null=np.nan)
    wrong = ~(np.isfinite(values) & (values >= 0))
    if wrong.any():
        rows = rows_where(wrong[:, 0])
        value = float(values[rows[0], 0])
        text = "is null" if np.isnan(value) else f"found {value:g}"
        raise location.error(column, f"{text}; a weight is a finite number of at least 0", rows)
    return values


def _reached(values: Floats, at_least: float, column: str, location: Location) -> Floats:
    """1 where a value is `at_least` or more, else 0; NaN is a missing label. Raises DataError for infinite values."""
    infinite = np.isinf(values)
    if infinite.any():
        raise location.error(column, "is infinite; a label is a finite number or null", rows_where(infinite[:, 0]))
    return np.where(np.isnan(values), values, (values >= np.float32(at_least)).astype(np.float32))


def _check_probabilities(values: Floats, column: str, location: Location) -> None:
    """Raise DataError for the rows whose value is not a probability; NaN is unknown."""
    wrong = ~(np.isnan(values) | ((values >= 0) & (values <= 1)))
    if wrong.any():
        rows = rows_where(wrong[:, 0])
        text = f"found {float(values[rows[0], 0]):g}; what a teacher predicts is a probability from 0 to 1, or null"
        raise location.error(column, text, rows)


def _check_numbers(values: Floats, objective: RegressionConfig, column: str, location: Location) -> None:
    """Raise DataError for the rows whose value cannot be the label of a regression. NaN is a missing label."""
    wrong = np.isinf(values)
    bound = ""
    if objective.transform == "log1p":
        wrong |= values < 0
        bound = ", at least 0 for log1p,"
    if wrong.any():
        rows = rows_where(wrong[:, 0])
        text = f"found {float(values[rows[0], 0]):g}; the label of a regression must be a finite float32{bound} or null"
        raise location.error(column, text, rows)
