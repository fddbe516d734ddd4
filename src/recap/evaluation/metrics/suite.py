"""All metrics of all tasks, over one stream of rows."""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from recap.config.metrics import BINARY_METRICS, GROUPED_METRICS, REGRESSION_METRICS, MetricsConfig
from recap.errors import RunError
from recap.evaluation.metrics.grouped import GroupedMetrics, hit_name
from recap.evaluation.metrics.ranking import RankingMetrics, auc_standard_error
from recap.evaluation.metrics.regression import RegressionSums, Xauc
from recap.evaluation.metrics.sums import SumMetrics


class MetricSuite:
    """The chosen metrics of all tasks, updated together: binary tasks and regressions each have their own."""

    def __init__(
        self,
        tasks: Sequence[str],
        names: Sequence[str] | None = None,
        regressions: Collection[str] = (),
        said: MetricsConfig | None = None,
    ) -> None:
        """`names` of metrics, None for all; `regressions` are those of `tasks` that predict how much of something.

        `said`: a threshold and ranks, None for the defaults.
        """
        self.tasks = list(tasks)
        parted: tuple[list[int], list[int]] = ([], [])
        for index, task in enumerate(self.tasks):
            parted[task in regressions].append(index)
        self._binary = _BinarySuite(len(parted[0]), names, said or MetricsConfig()) if parted[0] else None
        self._regression = _RegressionSuite(len(parted[1]), names) if parted[1] else None
        self._columns = parted
        none = torch.zeros(0, len(self.tasks))
        self.update(none, none, none, torch.zeros(0, dtype=torch.int64))  # metrics of no rows are defined

    def update(self, predictions: Tensor, labels: Tensor, weights: Tensor, users: Tensor | None = None) -> None:
        """Take in rows: [B, T] each, users [B] int64. Without users there are no grouped metrics.

        Rows of weight 0 count nowhere. Raises RunError for a probability outside [0, 1], for a value that is not
        finite, and for NaN.
        """
        self._refuse_impossible(predictions)
        rows = [tensor.double() for tensor in (predictions, labels, weights)]
        binary, regression = ([tensor[:, columns] for tensor in rows] for columns in self._columns)
        if self._binary is not None:
            self._binary.update(binary[0], binary[1], binary[2], users)
        if self._regression is not None:
            self._regression.update(*regression)

    def merge(self, other: "MetricSuite") -> None:
        """Take in all rows of another suite of the same tasks and metrics."""
        if self._binary is not None and other._binary is not None:
            self._binary.merge(other._binary)
        if self._regression is not None and other._regression is not None:
            self._regression.merge(other._regression)

    def compute(self) -> dict[str, dict[str, float]]:
        """Task → metric → value; NaN where a metric is undefined."""
        found: dict[int, dict[str, float]] = {}
        for suite, columns in zip((self._binary, self._regression), self._columns, strict=True):
            values = suite.compute() if suite is not None else {}
            for place, column in enumerate(columns):
                found[column] = {name: each[place].item() for name, each in values.items()}
        return {task: found[index] for index, task in enumerate(self.tasks)}

    def _refuse_impossible(self, predictions: Tensor) -> None:
        possible = (predictions >= 0) & (predictions <= 1)
        possible[:, self._columns[1]] = predictions[:, self._columns[1]].isfinite()
        if not possible.all():
            row, task = (~possible).nonzero()[0].tolist()
            what = "value" if task in self._columns[1] else "probability"
            found = predictions[row, task].item()
            raise RunError(f"task {self.tasks[task]!r}: predicted {what} {found:g}; the model has diverged")


class _BinarySuite:
    """The metrics of T binary tasks."""

    def __init__(self, tasks: int, names: Sequence[str] | None, said: MetricsConfig) -> None:
        chosen = [name for name in BINARY_METRICS if names is None or name in names]
        hits = [hit_name(k) for k in said.hit_at]
        self.names = [each for name in chosen for each in (hits if name == "hit_at" else [name])]
        self._sums = SumMetrics(tasks, said.threshold)
        self._ranking = (
            RankingMetrics(tasks) if {"auc", "auc_se", "auc_bound", "pr_auc", "nrce"} & set(self.names) else None
        )
        self._grouped = GroupedMetrics(tasks, said.hit_at) if set(GROUPED_METRICS) & set(chosen) else None
        self._has_users = True

    def update(self, probabilities: Tensor, labels: Tensor, weights: Tensor, users: Tensor | None) -> None:
        """[B, T] float64 each, users [B] int64."""
        self._sums.update(probabilities, labels, weights)
        if self._ranking is not None:
            self._ranking.update(probabilities, labels, weights)
        if users is None:
            self._has_users = False
        elif self._grouped is not None and self._has_users:
            self._grouped.update(probabilities, labels, weights, users)

    def merge(self, other: "_BinarySuite") -> None:
        """Take in all rows of another one."""
        self._sums.merge_state(other._sums)
        if self._ranking is not None and other._ranking is not None:
            self._ranking.merge_state(other._ranking)
        if self._grouped is not None and other._grouped is not None:
            self._grouped.merge_state(other._grouped)
        self._has_users = self._has_users and other._has_users

    def compute(self) -> dict[str, Tensor]:
        """Metric → [T] float64, in the order of reports."""
        found = _by_task(self._sums)
        if self._ranking is not None:
            found |= _by_task(self._ranking)
            counts = zip(found["auc"].tolist(), found["positives"].tolist(), found["count"].tolist(), strict=True)
            errors = [auc_standard_error(area, positive, count - positive) for area, positive, count in counts]
            found["auc_se"] = torch.tensor(errors, dtype=torch.float64)
        if self._grouped is not None and self._has_users:
            found |= _by_task(self._grouped)
        return {name: found[name] for name in self.names if name in found}


class _RegressionSuite:
    """The metrics of T regression tasks."""

    def __init__(self, tasks: int, names: Sequence[str] | None) -> None:
        self.names = [name for name in REGRESSION_METRICS if names is None or name in names]
        self._sums = RegressionSums(tasks)
        self._xauc = Xauc(tasks) if {"xauc", "xauc_bound"} & set(self.names) else None

    def update(self, predictions: Tensor, labels: Tensor, weights: Tensor) -> None:
        """[B, T] float64 each."""
        self._sums.update(predictions, labels, weights)
        if self._xauc is not None:
            self._xauc.update(predictions, labels, weights)

    def merge(self, other: "_RegressionSuite") -> None:
        """Take in all rows of another one."""
        self._sums.merge_state(other._sums)
        if self._xauc is not None and other._xauc is not None:
            self._xauc.merge_state(other._xauc)

    def compute(self) -> dict[str, Tensor]:
        """Metric → [T] float64, in the order of reports."""
        found = _by_task(self._sums) | (_by_task(self._xauc) if self._xauc is not None else {})
        return {name: found[name] for name in self.names}


def _by_task(metric: Metric) -> dict[str, Tensor]:
    """Metric → [T]; torchmetrics turns a single value into a scalar."""
    return {name: values.reshape(-1) for name, values in metric.compute().items()}
