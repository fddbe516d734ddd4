"""`RecapConfig`: the root of a configuration, with all sections and the checks across them."""

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, PrivateAttr

from recap.config.base import BaseConfig, Check, FreeOnResume, KeyPath, Name, Problems, RootConfig, ShapesWeights
from recap.config.checks.auxiliary import auxiliary_problems, expert_problems
from recap.config.checks.inputs import (
    column_problems,
    embedding_problems,
    history_problems,
    join_problems,
    number_problems,
    position_problems,
    prediction_problems,
)
from recap.config.checks.networks import batch_problems, ensemble_problems, gate_problems, product_problems
from recap.config.checks.reports import field_problems, list_problems, metric_problems, stratum_problems, watch_problems
from recap.config.checks.scenarios import scenario_problems, sharing_problems
from recap.config.checks.sharded_tables import sharded_table_problems, zero_collision_problems
from recap.config.checks.tables import table_problems
from recap.config.checks.tasks import (
    balancing_problems,
    chain_problems,
    distillation_problems,
    ranking_problems,
    rate_problems,
    regression_problems,
    task_problems,
    weight_problems,
)
from recap.config.checks.warnings import norm_warnings, split_warnings
from recap.config.checks.weights import frozen_problems, warm_start_problems
from recap.config.data import DataConfig, TrainDataConfig, ValidationDataConfig
from recap.config.evaluation.backtest import BacktestConfig
from recap.config.evaluation.metrics import ListKind, MetricName, MetricsConfig
from recap.config.evaluation.strata import StratumConfig
from recap.config.features import FeaturesConfig
from recap.config.model import ModelConfig
from recap.config.optimizer import OptimizerConfig
from recap.config.training import TrainingConfig
from recap.config.tuning import TuningConfig


class ScoringConfig(BaseConfig):
    """The section `scoring`."""

    weights: dict[Name, float] = {}
    """Task → weight of its calibrated probability, or of the predicted value of a regression; default: 0."""


class JobMode(StrEnum):
    """How a job reads its data."""

    TRAIN = "train"
    """Rows with labels, shuffled, repeated."""
    EVALUATE = "evaluate"
    """Rows with labels, in order, once."""
    INFERENCE = "inference"
    """Rows without labels, in order, once."""


class RecapConfig(RootConfig):
    """A complete configuration: everything that defines a run."""

    training: TrainingConfig = TrainingConfig()
    """Length and precision of the run, and when it logs, evaluates and saves."""
    features: FeaturesConfig
    """The columns of the data and their roles."""
    model: Annotated[ModelConfig, ShapesWeights()]
    """The network and its tasks."""
    train_data: TrainDataConfig
    """The data to train on."""
    validation_data: Annotated[dict[Name, ValidationDataConfig], FreeOnResume()] = {}
    """Validation splits by name; each sets only the fields that differ from `train_data`."""
    optimizer: OptimizerConfig
    """Algorithms and learning rates."""
    scoring: Annotated[ScoringConfig, FreeOnResume()] = ScoringConfig()
    """Weights of the tasks in the final score."""
    which_metrics: Annotated[list[MetricName] | None, Field(min_length=1), FreeOnResume()] = None
    """Metrics to report. Optional; default: all."""
    metrics: Annotated[MetricsConfig, FreeOnResume()] = MetricsConfig()
    """Parameters of metrics: the threshold of precision and recall, the lists, and the ranks of metrics of lists."""
    strata: Annotated[dict[Name, StratumConfig], FreeOnResume()] = {}
    """Subsets of rows, by name, for which `recap evaluate` reports metrics separately."""
    slices: Annotated[Literal["auto"] | None, FreeOnResume()] = None
    """`auto`: `recap evaluate` looks at every value of every column for rows where the model does worse than elsewhere.
    Optional; off by default."""
    backtest: Annotated[BacktestConfig, FreeOnResume()] = BacktestConfig()
    """How `recap backtest` trains and evaluates in the order of time."""
    tuning: Annotated[TuningConfig | None, FreeOnResume()] = None
    """The values that `recap tune` tries. Optional; nothing else reads it."""

    _secrets: dict[KeyPath, str] = PrivateAttr(default_factory=dict)

    def checks(self) -> tuple[Check, ...]:
        """Each check, with the sections it compares."""
        return (
            lambda: column_problems(self.features, self.model.tasks, self.data_sets()),
            lambda: prediction_problems(self.features, self.model.tasks),
            lambda: embedding_problems(self.features, self.model),
            lambda: join_problems(self.features, self.model.featurization),
            lambda: number_problems(self.features, self.model),
            lambda: position_problems(self.features, self.model),
            lambda: history_problems(self.features, self.model),
            lambda: product_problems(self.features, self.model),
            lambda: gate_problems(self.features, self.model),
            lambda: ensemble_problems(self.model),
            lambda: scenario_problems(self.features, self.model),
            lambda: sharing_problems(self.features, self.model),
            lambda: auxiliary_problems(self.model),
            lambda: expert_problems(self.model, self.optimizer),
            lambda: task_problems(self.model.tasks, self.data_sets()),
            lambda: chain_problems(self.model, self.train_data),
            lambda: metric_problems(self.which_metrics, self.model),
            lambda: list_problems(self.metrics, self.features),
            lambda: watch_problems(self.training, self.validation_data, self.which_metrics, self.features, self.model),
            lambda: stratum_problems(self.strata, self.features),
            lambda: field_problems(self.metrics.fields, self.features),
            lambda: weight_problems(self.scoring.weights, self.model.tasks),
            lambda: rate_problems(self.model.tasks, self.optimizer),
            lambda: batch_problems(self.training, self.train_data, self.features, self.model),
            lambda: regression_problems(self.model.tasks, self.data_sets()),
            lambda: ranking_problems(self.model, self.features),
            lambda: distillation_problems(self.model.tasks, self.train_data),
            lambda: balancing_problems(self.model, self.optimizer),
            lambda: table_problems(self.optimizer, self.training, self.features, self.model),
            lambda: sharded_table_problems(self.training, self.optimizer, self.features, self.model),
            lambda: zero_collision_problems(self.training, self.features),
            lambda: frozen_problems(self.optimizer, self.model.tasks),
            lambda: warm_start_problems(self.training, self.model.tasks),
        )

    def warnings(self) -> Problems:
        """What is accepted, but most likely not meant; `recap config check` and `recap train` print it."""
        yield from split_warnings(self.data_sets())
        yield from norm_warnings(self.features, self.model.featurization)

    @property
    def secrets(self) -> Mapping[KeyPath, str]:
        """Path of each value that contains a secret → the reference to store instead."""
        return self._secrets

    def remember_secrets(self, secrets: Mapping[KeyPath, str]) -> None:
        """Set `secrets`."""
        self._secrets = dict(secrets)

    @property
    def tasks(self) -> list[str]:
        """The tasks in the order of the task axis."""
        return list(self.model.tasks)

    @property
    def regressions(self) -> list[str]:
        """The regression tasks, in the order of tasks."""
        return self.model.regressions

    def evaluated_tasks(self, split: str) -> list[str]:
        """The tasks that a validation set evaluates: `evaluation_tasks`, by default all."""
        chosen = self.validation_data[split].evaluation_tasks
        return self.tasks if chosen is None else chosen

    @property
    def lists(self) -> ListKind | None:
        """What a list of the metrics that rank is; None if there are no lists."""
        default: ListKind | None = "request" if self.features.request is not None else "user"
        return self.metrics.lists or (default if self.features.request or self.features.user else None)

    def data_sets(self) -> Iterator[tuple[KeyPath, DataConfig]]:
        """The path and data set of `train_data`, then of each split in `validation_data`."""
        yield ("train_data",), self.train_data
        yield from ((("validation_data", name), data) for name, data in self.validation_data.items())
