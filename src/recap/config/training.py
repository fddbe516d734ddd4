"""The section `training`: the length and precision of a run, and when it logs, evaluates and saves.

Names and defaults are those of the published ranker."""

import re
from typing import Annotated, Literal

from pydantic import Field

from recap.config.base import (
    BaseConfig,
    Check,
    FreeOnResume,
    Name,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Problems,
)
from recap.config.evaluation.metrics import WatchedMetric
from recap.config.sharded_tables import ShardedTablesConfig


class MlflowConfig(BaseConfig):
    """Logs the configuration and all metrics to an MLflow run (in a checkout, `pip install '.[mlflow]'`)."""

    experiment: Name
    """Name of the experiment; created if it does not exist."""
    tracking_uri: Name | None = None
    """A server such as `http://localhost:5000`, or a folder. Optional; default: MLFLOW_TRACKING_URI."""
    run_name: Name | None = None
    """Name of the run. Optional; default: the last part of `save_dir`."""

    def checks(self) -> tuple[Check, ...]:
        return (self._has_a_scheme,)

    def _has_a_scheme(self) -> Problems:
        uri = self.tracking_uri
        if uri is not None and re.match(r"[\w.-]+:\d", uri):
            yield ("tracking_uri",), f"{uri!r} has no scheme; write http://{uri}"


class RaiseConfig(BaseConfig):
    """Stops the run with an error that names the step, the non-finite values and the rows; weights do not change."""

    kind: Literal["raise"] = "raise"


class SkipStepsConfig(BaseConfig):
    """Skips the update: the step and its rows count, but weights, optimizer state and running statistics do not
    change."""

    kind: Literal["skip"]
    budget: PositiveInt
    """Maximum number of skipped steps in a run; one more stops it."""


class RollbackConfig(BaseConfig):
    """Returns to the latest checkpoint, or to the initial weights, and skips the rows of that step."""

    kind: Literal["rollback"]
    budget: PositiveInt
    """Maximum number of rollbacks in a run; one more stops it."""


NonFiniteConfig = Annotated[RaiseConfig | SkipStepsConfig | RollbackConfig, Field(discriminator="kind")]


class CutRatesConfig(BaseConfig):
    """Cuts the learning rates when the watched metric stops improving."""

    after: PositiveInt = 1
    """Number of evaluations in a row without improvement after which rates are cut, and again after as many more."""
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Factor by which a cut multiplies every rate."""
    min_rate: NonNegativeFloat = 1e-6
    """Minimum to which cuts lower a rate."""


class WatchConfig(BaseConfig):
    """Watches a metric at each evaluation of a split, and keeps the checkpoint of its best value."""

    metric: WatchedMetric
    """The metric to watch; ece, log_loss, brier, ne, positive_rank, mae and rmse are better when lower, the others when
    higher."""
    split: Name
    """The name of the split in `validation_data`."""
    tasks: Annotated[list[Name], Field(min_length=1)] | None = None
    """Tasks to average the metric over. Optional; default: all tasks of the split that have the metric."""
    cut_rates: CutRatesConfig | None = None
    """Cuts the learning rates when the metric stops improving. Optional; off by default."""
    stop_after: Annotated[PositiveInt | None, FreeOnResume()] = None
    """Number of evaluations in a row without improvement after which the run stops. Optional; off by default."""


class EmaConfig(BaseConfig):
    """An exponential moving average of the weights, which replaces them in evaluation and in saved models.

    After step s: average = d·average + (1 − d)·weights, with d = min(decay, (1 + s) / (10 + s)), so that the initial
    weights are forgotten quickly (`num_updates` of TensorFlow's ExponentialMovingAverage)."""

    decay: Annotated[float, Field(gt=0, lt=1)] = 0.999
    """Weight d of the previous average; the average covers about the last 1 / (1 − decay) steps."""


class InitialWeightsConfig(BaseConfig):
    """Maps weights for a warm start from a model that differs from this one.

    Paths are those of modules or weights, such as `towers.like`; if several contain a weight, the longest applies. All
    other weights start from the weight of the same name."""

    map: dict[Name, Name] = {}
    """Path in this model → path in the old model."""
    fresh: list[Name] = []
    """Paths to initialize as in a new model."""

    def checks(self) -> tuple[Check, ...]:
        return (self._origins_are_clear,)

    def _origins_are_clear(self) -> Problems:
        for index, name in enumerate(self.fresh):
            if name in self.map:
                yield ("fresh", index), f"{name!r} is also in map; remove one"
            elif name in self.fresh[:index]:
                yield ("fresh", index), f"{name!r} is listed twice; remove one"


Precision = Literal["auto", "float32", "tf32", "bf16", "float16"]
InferencePrecision = Literal["auto", "float32", "bf16", "int8"]


class TrainingConfig(BaseConfig):
    """The section `training`. Intervals are in optimizer steps."""

    save_dir: Annotated[Name, FreeOnResume()] = "/tmp/model"
    """Folder of the run, for checkpoints, logs and evaluations."""
    num_train_steps: Annotated[PositiveInt, FreeOnResume()] = 1_000_000
    """Total number of optimizer steps."""
    initial_checkpoint_dir: Annotated[Name | None, FreeOnResume()] = None
    """Model directory with the initial weights, for a warm start at step 0. Optional; off by default."""
    initial_weights: Annotated[InitialWeightsConfig | None, FreeOnResume()] = None
    """Maps the weights of `initial_checkpoint_dir` to this model. Optional; default: all names and shapes must
    match."""
    checkpoint_every_n: Annotated[PositiveInt, FreeOnResume()] = 1000
    """Steps between checkpoints; the last step is always saved."""
    checkpoint_max_to_keep: Annotated[PositiveInt | None, FreeOnResume()] = None
    """Number of latest checkpoints to keep, besides the best of `watch`. Optional; default: all."""
    train_log_every_n: Annotated[PositiveInt, FreeOnResume()] = 1000
    """Steps between records of training losses and learning rates."""
    log_norms: Annotated[bool, FreeOnResume()] = False
    """Whether training records include the norms of the weights of each part of the model and each embedding table."""
    num_eval_steps: Annotated[int, FreeOnResume()] = 16384
    """Maximum number of batches per split and evaluation; negative: the complete split."""
    eval_log_every_n: Annotated[PositiveInt | None, FreeOnResume()] = 5000
    """Steps between evaluations in training; the last step is always evaluated. null turns evaluations off, including
    the last."""
    eval_timeout_in_s: Annotated[PositiveFloat, FreeOnResume()] = 3600.0
    """Maximum seconds for all splits of an evaluation in training; those not finished by then are not reported."""
    watch: WatchConfig | None = None
    """Keeps the checkpoint with the best value of a metric; can also cut learning rates or stop the run. Optional; off
    by default."""
    mlflow: Annotated[MlflowConfig | None, FreeOnResume()] = None
    """Logs to MLflow. Optional; off by default."""
    gradient_accumulation: PositiveInt | None = None
    """Micro-batches per optimizer step: less memory for the same step, except that BatchNorm normalizes micro-batches.
    Optional; default: 1."""
    ema: EmaConfig | None = None
    """Evaluates and saves a moving average of the weights. Optional; off by default."""
    batch_norm_rows: Annotated[PositiveInt | None, FreeOnResume()] = None
    """Number of training rows, from the first, over which the running statistics of BatchNorm are estimated anew for
    every evaluation and checkpoint (PreciseBN, arXiv:2105.07576), for better calibrated predictions. Takes a forward
    pass over them each time. Optional; default: the running statistics of training, of its last micro-batches."""
    non_finite: Annotated[NonFiniteConfig, FreeOnResume()] = RaiseConfig()
    """What to do when losses, gradients or running statistics of a step are not finite."""
    preemption_grace_seconds: Annotated[PositiveFloat, FreeOnResume()] = 30.0
    """Seconds from a signal to the end of the run; a step that does not finish within half of them is abandoned."""
    precision: Precision = "auto"
    """Precision of the network in training; weights, optimizer state and losses are always float32. `bf16` and
    `float16` use autocast, and float16 scales losses so that small gradients do not vanish. `tf32` is float32 with
    matrix products rounded to TF32 on a GPU. `auto` is bf16 if the hardware supports it, else tf32 on a GPU and float32
    on a CPU."""
    threads: Annotated[PositiveInt | None, FreeOnResume()] = None
    """Threads that compute on a CPU; reading has its own. Optional; default: `OMP_NUM_THREADS`, else the CPUs that this
    process may use, its quota included, but one for a small network: its threads would wait for each other."""
    sharded_tables: Annotated[ShardedTablesConfig | None, FreeOnResume()] = None
    """Divides the embedding tables among the ranks. Optional; default: every rank holds all tables."""
    compile: bool = False
    """Whether to compile the network with torch.compile: minutes at the start, then faster steps."""
    seed: NonNegativeInt = 0
    """Seed of initial weights, row order, sampling and dropout."""

    def checks(self) -> tuple[Check, ...]:
        return (self._folders_are_local,)

    def _folders_are_local(self) -> Problems:
        for name in ("save_dir", "initial_checkpoint_dir"):
            folder = getattr(self, name)
            if folder is not None and "://" in folder:
                yield (name,), f"must be a local folder; found {folder!r}. Mount the store, or copy the folder"
