"""All metrics of all tasks, over one stream of rows."""

from collections.abc import Collection, Mapping, Sequence

from torch import Tensor

from recap.config.evaluation.metrics import GROUPED_METRICS, MetricsConfig, TaskKind, bound_of, metrics_of, spec_of
from recap.errors import RunError
from recap.evaluation.metrics.lists import grouped_auc, list_metrics
from recap.evaluation.metrics.ranking import Histogram, auc_standard_error, exact_metrics
from recap.evaluation.metrics.rows import MAX_ROWS, RowSample
from recap.evaluation.metrics.sums import BinarySums, RegressionSums
from recap.evaluation.metrics.xauc import xauc, xauc_bound

RANKING = frozenset({"auc", "auc_se", "auc_bound", "pr_auc", "nrce"})
"""The metrics that need all predictions at once."""


class MetricSuite:
    """The chosen metrics of all tasks."""

    def __init__(
        self,
        tasks: Sequence[str],
        names: Sequence[str] | None = None,
        regressions: Collection[str] = (),
        config: MetricsConfig | None = None,
        max_rows: int = MAX_ROWS,
        seed: int = 0,
    ) -> None:
        """`names`: the metrics, None for all. `regressions`: the regression tasks.

        `config`: threshold and ranks, None for the defaults. `max_rows`: number of rows up to which metrics are exact.
        `seed`: of the samples beyond; suites that are merged need different ones.
        """
        self.tasks = list(tasks)
        self._regressions = [index for index, task in enumerate(self.tasks) if task in regressions]
        binary = [index for index in range(len(self.tasks)) if index not in self._regressions]
        config = config or MetricsConfig()
        self._binary = _BinaryMetrics(binary, _reported("binary", names, config), config)
        self._regression = _RegressionMetrics(self._regressions, _reported("regression", names, config))
        for part in (self._binary, self._regression):
            if part.needs_rows:
                part.rows = RowSample(len(part.columns), max_rows, seed)

    def update(self, predictions: Tensor, labels: Tensor, weights: Tensor, users: Tensor | None = None) -> None:
        """Add rows: [B, T] each, users [B] int64. Without users there are no list metrics.

        Rows of weight 0 do not count. Raises RunError for a probability outside [0, 1] or a non-finite prediction.
        """
        self._check_predictions(predictions)
        predictions, labels, weights = predictions.double(), labels.double(), weights.double()
        for part in (self._binary, self._regression):
            if part.columns:
                columns = part.columns
                part.update(predictions[:, columns], labels[:, columns], weights[:, columns], users)

    def merge(self, other: "MetricSuite") -> None:
        """Add the rows of another suite of the same tasks and metrics."""
        self._binary.merge(other._binary)
        self._regression.merge(other._regression)

    def compute(self) -> dict[str, dict[str, float]]:
        """Task → metric → value; NaN where a metric is undefined."""
        by_column = self._binary.compute() | self._regression.compute()
        return {task: by_column[column] for column, task in enumerate(self.tasks)}

    def _check_predictions(self, predictions: Tensor) -> None:
        possible = (predictions >= 0) & (predictions <= 1)
        possible[:, self._regressions] = predictions[:, self._regressions].isfinite()
        if not possible.all():
            row, task = (~possible).nonzero()[0].tolist()
            kind = "value" if task in self._regressions else "probability"
            value = predictions[row, task].item()
            raise RunError(f"task {self.tasks[task]!r}: predicted {kind} {value:g}; the model has diverged")


class _BinaryMetrics:
    """The metrics of the binary tasks; `columns`: their positions among all tasks."""

    def __init__(self, columns: Sequence[int], names: Sequence[str], config: MetricsConfig) -> None:
        self.columns, self.names, self.hit_at = list(columns), names, config.hit_at
        self.rows: RowSample | None = None
        self._sums = BinarySums(len(columns), config.threshold)
        self._histogram = Histogram(len(columns)) if columns and RANKING & set(names) else None
        self._has_lists = any(spec.name in GROUPED_METRICS for spec in map(spec_of, names) if spec is not None)

    @property
    def needs_rows(self) -> bool:
        return bool(self.columns) and (self._histogram is not None or self._has_lists)

    def update(self, probabilities: Tensor, labels: Tensor, weights: Tensor, users: Tensor | None) -> None:
        self._sums.update(probabilities, labels, weights)
        if self._histogram is not None:
            self._histogram.update(probabilities, labels, weights)
        if self.rows is not None:
            self.rows.add(probabilities, labels, weights, users)

    def merge(self, other: "_BinaryMetrics") -> None:
        self._sums.merge(other._sums)
        if self._histogram is not None and other._histogram is not None:
            self._histogram.merge(other._histogram)
        if self.rows is not None and other.rows is not None:
            self.rows.merge(other.rows)

    def compute(self) -> dict[int, dict[str, float]]:
        """Column → metric → value, in the order of reports."""
        sums = self._sums.compute()
        metrics: dict[int, dict[str, float]] = {}
        for index, column in enumerate(self.columns):
            values = {name: by_task[index].item() for name, by_task in sums.items()}
            if self.rows is not None:
                rows, sampling = self.rows.of_task(index)
                if self._histogram is not None:
                    values |= exact_metrics(rows) if sampling is None else self._histogram.metrics(index)
                    negatives = values["count"] - values["positives"]
                    values["auc_se"] = auc_standard_error(values["auc"], values["positives"], negatives)
                if self._has_lists and self.rows.has_users:
                    values |= grouped_auc(rows, sampling) | list_metrics(rows, self.hit_at, sampling)
            metrics[column] = _chosen(values, self.names, exact=self.rows is None or self.rows.is_complete)
        return metrics


class _RegressionMetrics:
    """The metrics of the regressions; `columns`: their positions among all tasks."""

    def __init__(self, columns: Sequence[int], names: Sequence[str]) -> None:
        self.columns, self.names = list(columns), names
        self.rows: RowSample | None = None
        self._sums = RegressionSums(len(columns))

    @property
    def needs_rows(self) -> bool:
        return bool(self.columns) and "xauc" in self.names

    def update(self, predictions: Tensor, labels: Tensor, weights: Tensor, users: Tensor | None) -> None:
        """`users` are not read: XAUC compares the rows of all users."""
        self._sums.update(predictions, labels, weights)
        if self.rows is not None:
            self.rows.add(predictions, labels, weights)

    def merge(self, other: "_RegressionMetrics") -> None:
        self._sums.merge(other._sums)
        if self.rows is not None and other.rows is not None:
            self.rows.merge(other.rows)

    def compute(self) -> dict[int, dict[str, float]]:
        """Column → metric → value, in the order of reports."""
        sums = self._sums.compute()
        metrics: dict[int, dict[str, float]] = {}
        for index, column in enumerate(self.columns):
            values = {name: by_task[index].item() for name, by_task in sums.items()}
            if self.rows is not None:
                rows, sampling = self.rows.of_task(index)
                values["xauc"] = xauc(rows)
                if sampling is not None:
                    values[bound_of("xauc")] = xauc_bound(values["xauc"], rows)
            metrics[column] = _chosen(values, self.names, exact=self.rows is None or self.rows.is_complete)
        return metrics


def _chosen(values: Mapping[str, float], names: Sequence[str], *, exact: bool) -> dict[str, float]:
    """The metrics `names` that have a value, each followed by its bound if it is not exact."""
    shown = names if exact else [shown for name in names for shown in (name, bound_of(name))]
    return {name: values[name] for name in shown if name in values}


def _reported(kind: TaskKind, chosen: Collection[str] | None, config: MetricsConfig) -> list[str]:
    """The names, in order, under which the chosen metrics of one kind of task are reported."""
    specs = [spec for spec in metrics_of(kind) if chosen is None or spec.name in chosen]
    return [name for spec in specs for name in (map(spec.at, config.hit_at) if spec.at_ranks else [spec.name])]
