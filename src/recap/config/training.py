"""How long a run is, and when it logs, evaluates and saves. Names and defaults are the published ones."""

from recap.config.base import BaseConfig, Name, NonNegativeInt, PositiveFloat, PositiveInt


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
    gradient_accumulation: PositiveInt | None = None
    """Micro-batches an optimizer step is cut into: less memory, the same step (but see BatchNorm in docs)."""
    seed: NonNegativeInt = 0
    """Fixes initial weights, the order of the rows and dropout."""
