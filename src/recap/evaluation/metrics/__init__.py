"""Metrics for each task: weighted, mergeable, in constant memory, whatever the order of the rows."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from recap.config.metrics import METRIC_NAMES
from recap.errors import RunError
from recap.evaluation.metrics.grouped import GroupedAuc
from recap.evaluation.metrics.ranking import RankingMetrics, auc_standard_error
from recap.evaluation.metrics.sums import SumMetrics

__all__ = ["MetricSuite", "auc_standard_error"]


class MetricSuite:
    """The chosen metrics of all tasks, updated together."""

    def __init__(self, tasks: Sequence[str], names: Sequence[str] | None = None) -> None:
        """`names` of metrics, None for all; reported in the order of `METRIC_NAMES`."""
        self.tasks = list(tasks)
        self.names = [name for name in METRIC_NAMES if names is None or name in names]
        count = len(self.tasks)
        self._sums = SumMetrics(count)
        self._ranking = (
            RankingMetrics(count) if {"auc", "auc_se", "auc_bound", "pr_auc", "nrce"} & set(self.names) else None
        )
        self._grouped = GroupedAuc(count) if "grouped_auc" in self.names else None
        self._has_users = True
        none = torch.zeros(0, count)
        self.update(none, none, none, torch.zeros(0, dtype=torch.int64))  # metrics of no rows are defined

    def update(self, probabilities: Tensor, labels: Tensor, weights: Tensor, users: Tensor | None = None) -> None:
        """Take in rows: [B, T] each, users [B] int64. Without users there is no grouped AUC.

        Rows of weight 0 count nowhere. Raises RunError for a probability outside [0, 1] or NaN.
        """
        wrong = ~((probabilities >= 0) & (probabilities <= 1))
        if wrong.any():
            row, task = wrong.nonzero()[0].tolist()
            found = probabilities[row, task].item()
            raise RunError(f"task {self.tasks[task]!r}: predicted probability {found:g}; the model has diverged")
        probabilities, labels, weights = probabilities.double(), labels.double(), weights.double()
        self._sums.update(probabilities, labels, weights)
        if self._ranking is not None:
            self._ranking.update(probabilities, labels, weights)
        if users is None:
            self._has_users = False
        elif self._grouped is not None and self._has_users:
            self._grouped.update(probabilities, labels, weights, users)

    def merge(self, other: "MetricSuite") -> None:
        """Take in all rows of another suite of the same tasks and metrics."""
        self._sums.merge_state(other._sums)
        if self._ranking is not None and other._ranking is not None:
            self._ranking.merge_state(other._ranking)
        if self._grouped is not None and other._grouped is not None:
            self._grouped.merge_state(other._grouped)
        self._has_users = self._has_users and other._has_users

    def compute(self) -> dict[str, dict[str, float]]:
        """Task → metric → value; NaN where a metric is undefined."""
        found = _by_task(self._sums)
        if self._ranking is not None:
            found |= _by_task(self._ranking)
            counts = zip(found["auc"].tolist(), found["positives"].tolist(), found["count"].tolist(), strict=True)
            errors = [auc_standard_error(area, positive, count - positive) for area, positive, count in counts]
            found["auc_se"] = torch.tensor(errors, dtype=torch.float64)
        if self._grouped is not None and self._has_users:
            found |= _by_task(self._grouped)
        names = [name for name in self.names if name in found]
        return {task: {name: found[name][index].item() for name in names} for index, task in enumerate(self.tasks)}


def _by_task(metric: Metric) -> dict[str, Tensor]:
    """Metric → [T]; torchmetrics turns a single value into a scalar."""
    return {name: values.reshape(-1) for name, values in metric.compute().items()}
