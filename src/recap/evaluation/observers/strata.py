"""The metrics of strata: the rows in which a discrete feature has a given value."""

from collections.abc import Mapping

from recap.config.recap import RecapConfig
from recap.data.batch import Batch
from recap.data.encoding.assets import Assets, code_of, discrete_columns
from recap.distributed import Ranks
from recap.evaluation.observers.metrics import Metrics
from recap.evaluation.result import TaskMetrics
from recap.model.scorer import Scores


class Strata:
    """The metrics of each stratum of a configuration."""

    def __init__(self, config: RecapConfig, split: str, assets: Assets, ranks: Ranks) -> None:
        """Raises DataError for a string that is not in a vocabulary."""
        self._values = _values(config, assets)
        self._metrics = {name: Metrics(config, split, ranks) for name in config.strata}

    def update(self, batch: Batch, scores: Scores) -> None:
        for name, metrics in self._metrics.items():
            column, code = self._values[name]
            index = (batch.discrete[:, column] == code).nonzero()[:, 0]
            metrics.add(batch.rows(index), scores.calibrated_probabilities[index])

    def result(self) -> Mapping[str, TaskMetrics]:
        """Stratum → task → metric → value."""
        return {name: metrics.result() for name, metrics in self._metrics.items()}


def check_strata(config: RecapConfig, assets: Assets) -> None:
    """Raise DataError if a stratum selects a string that is not in the vocabulary of its feature."""
    _values(config, assets)


def _values(config: RecapConfig, assets: Assets) -> dict[str, tuple[int, int]]:
    """Stratum → its column of `Batch.discrete`, and the code of its rows."""
    columns = discrete_columns(config.features)
    return {
        name: (columns[stratum.feature].start, code_of(stratum.feature, stratum.value, config.features, assets))
        for name, stratum in config.strata.items()
    }
