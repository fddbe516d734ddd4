"""The metrics of all rows."""

from torch import Tensor

from recap.config.recap import RecapConfig
from recap.data.batch import Batch
from recap.distributed import Ranks
from recap.evaluation.metrics.suite import MetricSuite
from recap.evaluation.result import TaskMetrics
from recap.model.scorer import Scores


class Metrics:
    """The metrics of the tasks that a split evaluates; rank 0 computes them from the rows of all ranks."""

    def __init__(self, config: RecapConfig, split: str, ranks: Ranks) -> None:
        self._suite = MetricSuite(config.tasks, config.which_metrics, config.regressions, config.metrics)
        chosen = config.validation_data[split].evaluation_tasks
        self._tasks = config.tasks if chosen is None else chosen
        self._ranks = ranks

    def update(self, batch: Batch, scores: Scores) -> None:
        self.add(batch, scores.calibrated_probabilities)

    def add(self, batch: Batch, predictions: Tensor) -> None:
        """Add the rows of `batch` with their predictions [B, T]."""
        assert batch.labels is not None
        assert batch.weights is not None
        users = [] if batch.user is None else [batch.user]
        columns = [predictions, batch.labels, batch.weights, *users]
        rows = self._ranks.all_gather([column.cpu() for column in columns])
        if self._ranks.is_first:
            self._suite.update(*rows)

    def result(self) -> TaskMetrics:
        computed = self._suite.compute()
        metrics: TaskMetrics = self._ranks.broadcast_object({task: computed[task] for task in self._tasks})
        return metrics
