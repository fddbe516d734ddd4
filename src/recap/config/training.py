"""How long a run is, and when it logs, evaluates and saves. Names and defaults are the published ones."""

from typing import Annotated

from pydantic import Field

from recap.config.base import BaseConfig, Name, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from recap.config.metrics import WatchedMetric
from recap.config.tracking import MlflowConfig


class CutRatesConfig(BaseConfig):
    """Learning rates fall when the watched metric stands still."""

    after: PositiveInt = 1
    """Evaluations in a row without a better value after which all rates are cut, and so often again."""
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """What a cut multiplies every rate by."""
    min_rate: NonNegativeFloat = 1e-6
    """No cut takes a rate below this one."""


class WatchConfig(BaseConfig):
    """A metric that is watched at each evaluation of a validation set. The checkpoint of its best value is kept."""

    metric: WatchedMetric
    """The metric; for log_loss and ne less is better, for the others more."""
    split: Name
    """The validation set."""
    tasks: Annotated[list[Name], Field(min_length=1)] | None = None
    """Tasks whose mean is watched; none given: all that the set evaluates."""
    cut_rates: CutRatesConfig | None = None
    """When rates are cut; none given: never."""
    stop_after: PositiveInt | None = None
    """Evaluations in a row without a better value after which the run ends; none given: it goes on."""


class TrainingConfig(BaseConfig):
    """The section `training`. Every interval counts optimizer steps and holds independently of the others."""

    save_dir: Name = "/tmp/model"
    """The run: checkpoints, logs and evaluations go here."""
    num_train_steps: PositiveInt = 1_000_000
    """Optimizer steps in all."""
    initial_checkpoint_dir: Name | None = None
    """Warm start: weights come from this model directory, the step is counted from 0."""
    checkpoint_every_n: PositiveInt = 1000
    """Steps between checkpoints; the last step is always saved."""
    checkpoint_max_to_keep: PositiveInt | None = None
    """How many of the latest checkpoints stay; none given: all."""
    train_log_every_n: PositiveInt = 1000
    """Steps between lines of training losses and rates."""
    num_eval_steps: int = 16384
    """Batches in an evaluation; below 0 the whole data set."""
    eval_log_every_n: PositiveInt = 5000
    """Steps between evaluations while training; the last step is always evaluated."""
    eval_timeout_in_s: PositiveFloat = 3600.0
    """Seconds after which an evaluation while training is given up; training goes on."""
    watch: WatchConfig | None = None
    """A metric whose best checkpoint is kept, and that may cut the rates and end the run; none given: none."""
    mlflow: MlflowConfig | None = None
    """An MLflow run that takes what is logged; none given: none."""
    gradient_accumulation: PositiveInt | None = None
    """Micro-batches an optimizer step is cut into: less memory, the same step (but see BatchNorm in docs)."""
    seed: NonNegativeInt = 0
    """Fixes initial weights, the order of the rows and dropout."""
