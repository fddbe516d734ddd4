"""Strata: metrics of some rows by themselves."""

from torch import Tensor

from recap.config.recap import RecapConfig
from recap.data.batch import Batch
from recap.data.encoding.assets import Assets, code_of, discrete_columns
from recap.evaluation.metrics.suite import MetricSuite


class Strata:
    """A `MetricSuite` for each stratum of a configuration, each over its rows."""

    def __init__(self, config: RecapConfig, assets: Assets) -> None:
        """Raises DataError for a string that a vocabulary does not have."""
        columns = discrete_columns(config.features)
        self._columns = {name: columns[stratum.feature].start for name, stratum in config.strata.items()}
        self._codes = {
            name: code_of(stratum.feature, stratum.value, config.features, assets)
            for name, stratum in config.strata.items()
        }
        self._suites = {
            name: MetricSuite(config.tasks, config.which_metrics, config.regressions, config.metrics)
            for name in config.strata
        }

    def update(self, probabilities: Tensor, batch: Batch) -> None:
        """Take in the rows of `batch`, with the probabilities [B, T] that a model gives them."""
        assert batch.labels is not None
        assert batch.weights is not None
        for name, suite in self._suites.items():
            rows = batch.discrete[:, self._columns[name]] == self._codes[name]
            users = batch.user[rows] if batch.user is not None else None
            suite.update(probabilities[rows], batch.labels[rows], batch.weights[rows], users)

    def compute(self) -> dict[str, dict[str, dict[str, float]]]:
        """Stratum → task → metric → value; NaN where a metric is undefined."""
        return {name: suite.compute() for name, suite in self._suites.items()}
