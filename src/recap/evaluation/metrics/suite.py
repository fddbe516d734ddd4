"""All metrics of all tasks, over one stream of rows."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from recap.config.evaluation.metrics import GROUPED_METRICS, MetricsConfig, TaskKind, bound_of, metrics_of, spec_of
from recap.data.encoding.hashing import hash_ids, mix
from recap.errors import RunError
from recap.evaluation.metrics.buckets import BUCKETS, Family, Statistic, Totals, buckets_of_hashes, replicates, values
from recap.evaluation.metrics.estimate import Estimate, Estimates
from recap.evaluation.metrics.list_rows import ListRows
from recap.evaluation.metrics.lists import ListMetrics
from recap.evaluation.metrics.ranking import CoarseHistogram, Histogram, auc_standard_error, exact_metrics
from recap.evaluation.metrics.rows import MAX_ROWS, RowSample
from recap.evaluation.metrics.seen import NO_USER, DistinctUsers, Fingerprints
from recap.evaluation.metrics.sums import BinarySums, RegressionSums
from recap.evaluation.metrics.xauc import xauc, xauc_bound, xauc_by_bucket

RANKING = frozenset({"auc", "auc_se", "auc_bound", "pr_auc", "nrce", "ece"})
"""The metrics that need all predictions at once."""
NOT_ESTIMATED = frozenset({"count", "positives", "auc_se", "auc_bound"})
"""The metrics without intervals: counts, and errors."""
BLOCK = 16_384
"""Rows that are added together: few enough for a cache, and many for one call."""


class SuiteResult(NamedTuple):
    """What a suite knows of its rows."""

    metrics: dict[str, dict[str, float]]
    """Task → metric → value; NaN where a metric is undefined."""
    estimates: Estimates
    """The metrics that have intervals; empty if none were asked for."""
    users: int
    """Distinct users with a weight above 0 in some task; of rows without users, distinct lists, or the rows."""
    rows: dict[str, str]
    """Task → fingerprint of its users, labels and weights."""


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
        *,
        intervals: bool = True,
    ) -> None:
        """`names`: the metrics, None for all. `regressions`: the regression tasks.

        `config`: threshold and ranks, None for the defaults. `max_rows`: number of rows up to which metrics are exact.
        `seed`: of the samples beyond; suites that are merged need different ones. `intervals`: whether metrics have
        estimates.
        """
        self.tasks = list(tasks)
        self._regressions = [index for index, task in enumerate(self.tasks) if task in regressions]
        binary = [index for index in range(len(self.tasks)) if index not in self._regressions]
        config, groups = config or MetricsConfig(), BUCKETS if intervals else 1
        kinds = (
            _BinaryMetrics(binary, _reported("binary", names, config), groups, config),
            _RegressionMetrics(self._regressions, _reported("regression", names, config), groups),
        )
        self._kinds: list[_KindMetrics] = [kind for kind in kinds if kind.columns]
        for kind in self._kinds:
            kind.rows = RowSample(len(kind.columns), max_rows, seed) if kind.needs_rows else None
        self._groups, self._seed, self._count = groups, seed, 0
        self._users, self._userless, self._fingerprints = DistinctUsers(), 0, Fingerprints(len(self.tasks))
        self._waiting: list[tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]] = []

    def update(
        self,
        predictions: Tensor,
        labels: Tensor,
        weights: Tensor,
        users: Tensor | None = None,
        lists: Tensor | None = None,
    ) -> None:
        """Add rows: [B, T] each, users and ids of lists [B] int64, by default the users.

        Without lists there are no list metrics. Rows of weight 0 do not count. Raises RunError for a probability
        outside [0, 1] or a non-finite prediction.
        """
        self._check_predictions(predictions)
        lists = users if lists is None else lists
        users = lists if users is None else users
        if self._waiting and (self._waiting[-1][3] is None) != (users is None):
            self._flush()
        self._waiting.append((predictions, labels, weights, users, lists))
        if sum(len(part[0]) for part in self._waiting) >= BLOCK:
            self._flush()

    def merge(self, other: "MetricSuite") -> None:
        """Add the rows of another suite of the same tasks and metrics."""
        self._flush()
        other._flush()
        for kind, others in zip(self._kinds, other._kinds, strict=True):
            kind.merge(others)
        self._users.merge(other._users)
        self._userless += other._userless
        self._fingerprints.merge(other._fingerprints)

    def compute(self) -> dict[str, dict[str, float]]:
        """Task → metric → value; NaN where a metric is undefined."""
        return self.result().metrics

    def result(self) -> SuiteResult:
        """The metrics and estimates, and the rows they are of."""
        self._flush()
        by_column = {column: computed for kind in self._kinds for column, computed in kind.compute().items()}
        computed = {task: by_column[column] for column, task in enumerate(self.tasks)}
        return SuiteResult(
            {task: item.values for task, item in computed.items()},
            {task: item.estimates() for task, item in computed.items()} if self._groups > 1 else {},
            self._users.count() + self._userless,
            self._fingerprints.result(self.tasks),
        )

    def _flush(self) -> None:
        """Add the waiting rows."""
        if not self._waiting:
            return
        *columns, users, lists = zip(*self._waiting, strict=True)
        # The values of a task lie side by side.
        predictions, labels, weights = (torch.cat(column).T.contiguous() for column in columns)  # [T, B]
        self._waiting = []
        known, listed = (
            None if parts[0] is None else torch.cat([part for part in parts if part is not None])
            for parts in (users, lists)
        )
        numbers = np.arange(self._count, self._count + labels.shape[1]) + (self._seed << 40)
        self._count += labels.shape[1]
        hashes = mix(hash_ids(numbers if known is None else known.numpy()))
        buckets = torch.from_numpy(buckets_of_hashes(hashes).astype(np.int64)) % self._groups
        counted = (weights > 0).any(dim=0).numpy()
        if known is None:
            self._userless += int(counted.sum())
        else:
            self._users.add(hashes[counted])
        self._fingerprints.add(NO_USER if known is None else hashes, labels.float().numpy(), weights.float().numpy())
        for kind in self._kinds:
            p, y, w = (column[kind.columns].double().T for column in (predictions, labels, weights))
            kind.update(p, y, w, buckets, listed)

    def _check_predictions(self, predictions: Tensor) -> None:
        if not predictions.numel():
            return
        low, high = (bound.item() for bound in predictions.aminmax())
        if low >= 0 and high <= 1:  # false for NaN
            return
        possible = (predictions >= 0) & (predictions <= 1)
        possible[:, self._regressions] = predictions[:, self._regressions].isfinite()
        if not possible.all():
            row, task = (~possible).nonzero()[0].tolist()
            kind = "value" if task in self._regressions else "probability"
            value = predictions[row, task].item()
            raise RunError(f"task {self.tasks[task]!r}: predicted {kind} {value:g}; the model has diverged")


@dataclass
class _Computed:
    """The metrics of one task."""

    values: dict[str, float]
    occupied: Tensor
    """[groups], whether a bucket has rows of the task."""
    without: dict[str, Tensor] = field(default_factory=dict)
    """Metric → its value without each bucket, [groups]."""

    def estimates(self) -> dict[str, Estimate]:
        return {
            name: Estimate(value, self.without[name][self.occupied].numpy())
            for name, value in self.values.items()
            if name in self.without and name not in NOT_ESTIMATED
        }


class _KindMetrics(ABC):
    """The metrics of the tasks of one kind; `columns`: their positions among all tasks."""

    def __init__(self, columns: Sequence[int], names: Sequence[str], groups: int, statistics: list[Statistic]) -> None:
        """`statistics`: families of metrics that are functions of sums; the first one has `rows` among its sums."""
        self.columns, self.names, self.groups, self.statistics = list(columns), names, groups, statistics
        self.rows: RowSample | None = None

    @property
    @abstractmethod
    def needs_rows(self) -> bool:
        """Whether a metric reads the rows."""

    def update(
        self, predictions: Tensor, labels: Tensor, weights: Tensor, buckets: Tensor, lists: Tensor | None
    ) -> None:
        """Add rows: [B, T] float64 of the tasks of this kind, buckets [B] and ids of lists [B] int64."""
        for statistic in self.statistics:
            statistic.update(predictions, labels, weights, buckets)
        if self.rows is not None:
            self.rows.add(predictions, labels, weights, lists, buckets)

    def merge(self, other: "_KindMetrics") -> None:
        """Add the rows of `other`."""
        for statistic, others in zip(self.statistics, other.statistics, strict=True):
            statistic.merge(others)
        if self.rows is not None and other.rows is not None:
            self.rows.merge(other.rows)

    def compute(self) -> dict[int, _Computed]:
        """Column → its metrics, in the order of reports."""
        totals = [statistic.totals() for statistic in self.statistics]
        pairs: list[tuple[Family, Totals]] = [*zip(self.statistics, totals, strict=True), *self.families_of_rows()]
        by_task = {name: value for pair in pairs for name, value in values(*pair).items()}
        of_groups = [replicates(*pair) for pair in pairs] if self.groups > 1 else []
        without = {name: value for part in of_groups for name, value in part.items()}
        computed: dict[int, _Computed] = {}
        for index, column in enumerate(self.columns):
            task = _Computed(
                {name: value[index].item() for name, value in by_task.items()},
                totals[0]["rows"][:, index] > 0,
                {name: value[:, index] for name, value in without.items()},
            )
            self.add_of_rows(index, task)
            task.values = _chosen(task.values, self.names, exact=self.rows is None or self.rows.is_complete)
            computed[column] = task
        return computed

    def families_of_rows(self) -> list[tuple[Family, Totals]]:
        """The families whose sums need all rows, with their sums."""
        return []

    @abstractmethod
    def add_of_rows(self, index: int, task: _Computed) -> None:
        """Add the metrics of the task in column `index` that read the rows."""


class _BinaryMetrics(_KindMetrics):
    """The metrics of the binary tasks."""

    def __init__(self, columns: Sequence[int], names: Sequence[str], groups: int, config: MetricsConfig) -> None:
        tasks = len(columns)
        self._ranks = bool(RANKING & set(names))
        self._has_lists = any(spec.name in GROUPED_METRICS for spec in map(spec_of, names) if spec is not None)
        self._histogram: Histogram | None = None
        """Of all rows; None while the sample has all of them."""
        statistics: list[Statistic] = [BinarySums(tasks, config.threshold, groups)]
        if self._ranks and groups > 1:
            statistics.append(CoarseHistogram(tasks, groups, config.calibration_bins))
        self._lists, self._calibration_bins = ListMetrics(config.hit_at, config.ndcg_at), config.calibration_bins
        self._list_rows: ListRows | None = None
        super().__init__(columns, names, groups, statistics)

    @property
    def needs_rows(self) -> bool:
        return self._ranks or self._has_lists

    def update(
        self, predictions: Tensor, labels: Tensor, weights: Tensor, buckets: Tensor, lists: Tensor | None
    ) -> None:
        histogram = self._histogram_for(len(labels))
        if histogram is not None:
            histogram.update(predictions, labels, weights)
        super().update(predictions, labels, weights, buckets, lists)

    def families_of_rows(self) -> list[tuple[Family, Totals]]:
        if self.rows is None or not self._has_lists or not self.rows.has_users:
            return []
        lists, buckets, values, sampling = self.rows.all()
        self._list_rows = ListRows(lists, values, buckets, sampling)
        return [(self._lists, self._lists.totals(self._list_rows, self.groups))]

    def merge(self, other: "_KindMetrics") -> None:
        assert isinstance(other, _BinaryMetrics)
        if self.rows is not None and other.rows is not None:
            histogram, others = self._histogram_for(other.rows.seen), other._histogram_for(self.rows.seen)
            if histogram is not None and others is not None:
                histogram.merge(others)
        super().merge(other)

    def add_of_rows(self, index: int, task: _Computed) -> None:
        if self.rows is None:
            return
        metrics = task.values
        rows, _ = self.rows.of_task(index)
        if self._ranks:
            coarse = {name: metrics[name] for name in ("auc", "pr_auc", "nrce", "ece") if name in metrics}
            bins = self._calibration_bins
            metrics |= exact_metrics(rows, bins) if self._histogram is None else self._histogram.metrics(index)
            metrics["auc_se"] = auc_standard_error(
                metrics["auc"], metrics["positives"], metrics["count"] - metrics["positives"]
            )
            for name, value in coarse.items():
                task.without[name] = metrics[name] + (task.without[name] - value)
        if self._list_rows is not None:
            metrics |= self._lists.bounds(self._list_rows, index, metrics)

    def _histogram_for(self, more: int) -> Histogram | None:
        """The histogram of all rows, made before `more` rows are too many for the sample."""
        if self._histogram is not None or not self._ranks or self.rows is None:
            return self._histogram
        if self.rows.seen + more > self.rows.max_rows:
            self._histogram = Histogram(len(self.columns), self._calibration_bins)
            for block in self.rows.blocks():
                self._histogram.update(*block)
        return self._histogram


class _RegressionMetrics(_KindMetrics):
    """The metrics of the regressions."""

    def __init__(self, columns: Sequence[int], names: Sequence[str], groups: int) -> None:
        super().__init__(columns, names, groups, [RegressionSums(len(columns), groups)])

    @property
    def needs_rows(self) -> bool:
        return "xauc" in self.names

    def update(
        self, predictions: Tensor, labels: Tensor, weights: Tensor, buckets: Tensor, lists: Tensor | None
    ) -> None:
        """`lists` are not read: XAUC compares the rows of all lists."""
        super().update(predictions, labels, weights, buckets, None)

    def add_of_rows(self, index: int, task: _Computed) -> None:
        if self.rows is None:
            return
        rows, sampling = self.rows.of_task(index)
        if self.groups > 1:
            _, buckets, *_ = self.rows.all()
            task.values["xauc"], without = xauc_by_bucket(rows, buckets, self.groups)
            task.without["xauc"] = torch.from_numpy(without)
        else:
            task.values["xauc"] = xauc(rows)
        if sampling is not None:
            task.values[bound_of("xauc")] = xauc_bound(task.values["xauc"], rows)


def _chosen(values: Mapping[str, float], names: Sequence[str], *, exact: bool) -> dict[str, float]:
    """The metrics `names` that have a value, each followed by its bound if it is not exact."""
    shown = names if exact else [shown for name in names for shown in (name, bound_of(name))]
    return {name: values[name] for name in shown if name in values}


def _reported(kind: TaskKind, chosen: Collection[str] | None, config: MetricsConfig) -> list[str]:
    """The names, in order, under which the chosen metrics of one kind of task are reported."""
    specs = [spec for spec in metrics_of(kind) if chosen is None or spec.name in chosen]
    return [name for spec in specs for name in (map(spec.at, config.ranks(spec)) if spec.at_ranks else [spec.name])]
