"""`RecapConfig`, the whole of what a run is, and the checks that cross its sections."""

from collections.abc import Iterator, Mapping
from enum import StrEnum

from pydantic import Field, PrivateAttr

from recap.config.base import BaseConfig, Check, KeyPath, Name, WholeConfig
from recap.config.checks.inputs import (
    column_problems,
    embedding_problems,
    history_problems,
    join_problems,
    position_problems,
)
from recap.config.checks.networks import batch_problems, product_problems
from recap.config.checks.reports import metric_problems, stratum_problems, watch_problems
from recap.config.checks.tables import table_problems
from recap.config.checks.tasks import (
    balancing_problems,
    chain_problems,
    pair_problems,
    rate_problems,
    regression_problems,
    task_problems,
    weight_problems,
)
from recap.config.checks.weights import frozen_problems, warm_start_problems
from recap.config.data import DataConfig, TrainDataConfig, ValidationDataConfig
from recap.config.features import FeaturesConfig
from recap.config.metrics import MetricName, MetricsConfig, StratumConfig
from recap.config.model import ModelConfig
from recap.config.optimizer import OptimizerConfig
from recap.config.training import TrainingConfig


class ScoringConfig(BaseConfig):
    """The section `scoring`."""

    weights: dict[Name, float] = {}
    """Weight of each task's calibrated probability, or of the value of a regression; tasks not named do not count."""


class JobMode(StrEnum):
    """What a job does with its data."""

    TRAIN = "train"
    """Rows with labels, shuffled, again and again."""
    EVALUATE = "evaluate"
    """Rows with labels, in order, once."""
    INFERENCE = "inference"
    """Rows without labels, in order, once."""


class RecapConfig(WholeConfig):
    """Everything a run is, from one file."""

    training: TrainingConfig = TrainingConfig()
    """How long the run is, and when it logs, evaluates and saves."""
    features: FeaturesConfig
    """What the columns of the data are."""
    model: ModelConfig
    """The network and its tasks."""
    train_data: TrainDataConfig
    """What to train on."""
    validation_data: dict[Name, ValidationDataConfig] = {}
    """Data sets to evaluate on, by name; each states only what differs from `train_data`."""
    optimizer: OptimizerConfig
    """How weights move."""
    scoring: ScoringConfig = ScoringConfig()
    """How much each probability counts."""
    which_metrics: list[MetricName] | None = Field(default=None, min_length=1)
    """Metrics to report; none given: all."""
    metrics: MetricsConfig = MetricsConfig()
    """What some metrics need to know besides the rows."""
    strata: dict[Name, StratumConfig] = {}
    """Rows of which `recap evaluate` reports every metric by themselves, too, by a name for them."""

    def checks(self) -> tuple[Check, ...]:
        """Each check, with the sections it compares."""
        return (
            lambda: column_problems(self.features, self.model.tasks, self.data_sets()),
            lambda: embedding_problems(self.features, self.model),
            lambda: join_problems(self.features, self.model.featurization),
            lambda: position_problems(self.features, self.model),
            lambda: history_problems(self.features, self.model),
            lambda: product_problems(self.features, self.model),
            lambda: task_problems(self.model.tasks, self.data_sets()),
            lambda: chain_problems(self.model, self.train_data),
            lambda: metric_problems(self.which_metrics, self.model),
            lambda: watch_problems(self.training, self.validation_data, self.which_metrics, self.features, self.model),
            lambda: stratum_problems(self.strata, self.features),
            lambda: weight_problems(self.scoring.weights, self.model.tasks),
            lambda: rate_problems(self.model.tasks, self.optimizer),
            lambda: batch_problems(self.training, self.train_data, self.features, self.model),
            lambda: regression_problems(self.model.tasks, self.data_sets()),
            lambda: pair_problems(self.model.tasks, self.features),
            lambda: balancing_problems(self.model, self.optimizer),
            lambda: table_problems(self.optimizer, self.training, self.features, self.model),
            lambda: frozen_problems(self.optimizer, self.model.tasks),
            lambda: warm_start_problems(self.training, self.model.tasks),
        )

    _secrets: dict[KeyPath, str] = PrivateAttr(default_factory=dict)

    @property
    def secrets(self) -> Mapping[KeyPath, str]:
        """The values that secrets made, as what may be stored of them."""
        return self._secrets

    def remember_secrets(self, found: Mapping[KeyPath, str]) -> None:
        """Have the values at these paths stored as their references."""
        self._secrets = dict(found)

    @property
    def tasks(self) -> list[str]:
        """The one order of the task axis."""
        return list(self.model.tasks)

    @property
    def regressions(self) -> list[str]:
        """The regression tasks, in the order of tasks."""
        return self.model.regressions

    def data_sets(self) -> Iterator[tuple[KeyPath, DataConfig]]:
        """Every data set, with its path: the one to train on, then those to validate on."""
        yield ("train_data",), self.train_data
        yield from ((("validation_data", name), data) for name, data in self.validation_data.items())
