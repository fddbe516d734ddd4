"""The metrics of all rows."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from torch import Tensor

from recap.config.recap import RecapConfig
from recap.data.batch import Batch
from recap.distributed import Ranks
from recap.evaluation.metrics.estimate import Estimate
from recap.evaluation.metrics.seen import joint_fingerprint
from recap.evaluation.metrics.suite import MetricSuite, SuiteResult
from recap.evaluation.result import Intervals, TaskMetrics
from recap.model.scorer import Scores


class Metrics:
    """The metrics of the tasks that a split evaluates; rank 0 computes them from the rows of all ranks.

    Add no rows after the first result is read.
    """

    def __init__(self, config: RecapConfig, split: str, ranks: Ranks, *, intervals: bool = True) -> None:
        """`intervals`: whether metrics have estimates, and so intervals."""
        self._suite = MetricSuite(
            config.tasks, config.which_metrics, config.regressions, config.metrics, intervals=intervals
        )
        self._tasks, self._ranks = config.evaluated_tasks(split), ranks

    def update(self, batch: Batch, scores: Scores) -> None:
        self.add(batch, scores.calibrated_probabilities)

    def add(self, batch: Batch, predictions: Tensor) -> None:
        """Add the rows of `batch` with their predictions [B, T]."""
        assert batch.labels is not None
        assert batch.weights is not None
        ids = {"users": batch.user, "lists": batch.lists}
        known = {name: column for name, column in ids.items() if column is not None}
        columns = [predictions, batch.labels, batch.weights, *known.values()]
        rows = self._ranks.all_gather([column.cpu() for column in columns])
        if self._ranks.is_first:
            self._suite.update(*rows[:3], **dict(zip(known, rows[3:], strict=True)))

    def result(self) -> TaskMetrics:
        return self.computed.metrics

    def intervals(self) -> Intervals:
        """Task → metric → the interval of 95 %, of the metrics that have one."""
        return intervals_of(self.computed.estimates)

    @property
    def fingerprint(self) -> str:
        """Equal for the same rows, in any order."""
        return joint_fingerprint(self.computed.rows)

    @cached_property
    def computed(self) -> SuiteResult:
        """Everything that the suite knows, of the tasks that the split evaluates; every rank must read it."""
        metrics, estimates, users, rows = self._suite.result()
        plain = {task: {name: item.numbers for name, item in estimates.get(task, {}).items()} for task in self._tasks}
        content: Any = self._ranks.broadcast_object(
            {
                "metrics": {task: metrics[task] for task in self._tasks},
                "estimates": plain if estimates else {},
                "users": users,
                "rows": {task: rows[task] for task in self._tasks},
            }
        )
        content["estimates"] = {
            task: {name: Estimate.of(numbers) for name, numbers in items.items()}
            for task, items in content["estimates"].items()
        }
        return SuiteResult(**content)


def intervals_of(estimates: Mapping[str, Mapping[str, Estimate]]) -> Intervals:
    """Task → metric → the interval of 95 %."""
    return {task: {name: item.interval() for name, item in items.items()} for task, items in estimates.items()}
