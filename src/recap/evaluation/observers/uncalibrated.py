"""The metrics of probabilities before calibration, for the tasks that it changes."""

from recap.config.recap import RecapConfig
from recap.data.batch import Batch
from recap.distributed import Ranks
from recap.evaluation.metrics.suite import MetricSuite
from recap.evaluation.result import TaskMetrics
from recap.model.scorer import Scorer, Scores

PROBABILITY_METRICS = ("calibration", "ece", "log_loss", "brier", "rce")
"""The metrics that calibration is for; those of order hardly change."""


class Uncalibrated:
    """`PROBABILITY_METRICS` of `Scores.probabilities`: for the data as sampled for training, with no fitted map.

    Only those in `which_metrics`, of the binary tasks that the split evaluates and the calibration changes.
    """

    def __init__(self, config: RecapConfig, split: str, scorer: Scorer, ranks: Ranks) -> None:
        changed = scorer.calibration.ratios.cpu() != 1
        if scorer.fitted is not None:
            changed = changed | scorer.fitted.is_fitted.cpu()
        chosen = PROBABILITY_METRICS if config.which_metrics is None else config.which_metrics
        metrics = [name for name in PROBABILITY_METRICS if name in chosen]
        tasks = [
            task
            for task in config.evaluated_tasks(split)
            if metrics and task not in config.regressions and changed[config.tasks.index(task)]
        ]
        self._columns, self._ranks = [config.tasks.index(task) for task in tasks], ranks
        self._suite = MetricSuite(tasks, metrics, config=config.metrics, intervals=False)

    def update(self, batch: Batch, scores: Scores) -> None:
        if not self._columns:
            return
        assert batch.labels is not None
        assert batch.weights is not None
        columns = [part[:, self._columns].cpu() for part in (scores.probabilities, batch.labels, batch.weights)]
        rows = self._ranks.all_gather(columns)
        if self._ranks.is_first:
            self._suite.update(*rows)

    def result(self) -> TaskMetrics:
        """Task → metric → value; {} if the calibration changes no task."""
        metrics: TaskMetrics = self._ranks.broadcast_object(self._suite.compute())
        return metrics
