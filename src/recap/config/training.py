"""How long a run is, and when it logs, evaluates and saves. Names and defaults are the published ones."""

import re
from typing import Annotated, Literal

from pydantic import Field

from recap.config.base import (
    BaseConfig,
    Check,
    Name,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Problems,
)
from recap.config.metrics import WatchedMetric


class MlflowConfig(BaseConfig):
    """An MLflow run that takes the configuration and every number that is logged (`pip install 'recap[mlflow]'`)."""

    experiment: Name
    """The experiment the run belongs to; made if it is not there."""
    tracking_uri: Name | None = None
    """The server, such as `http://localhost:5000`, or a folder; none given: what MLFLOW_TRACKING_URI says."""
    run_name: Name | None = None
    """The name of the run; none given: that of the folder `save_dir`."""

    def checks(self) -> tuple[Check, ...]:
        """A server without the scheme by which it is known as one."""
        return (self._has_a_scheme,)

    def _has_a_scheme(self) -> Problems:
        uri = self.tracking_uri
        if uri is not None and re.match(r"[\w.-]+:\d", uri):
            yield ("tracking_uri",), f"{uri!r} has no scheme; write http://{uri}"


class RaiseConfig(BaseConfig):
    """The run ends with an error that names the step, what is not finite and the rows; the weights do not move."""

    kind: Literal["raise"] = "raise"


class SkipStepsConfig(BaseConfig):
    """The step counts, with its rows and in the schedule, but nothing moves: weights, moments, running statistics."""

    kind: Literal["skip"]
    budget: PositiveInt
    """How many steps a run may skip in all; one more ends it."""


class RollbackConfig(BaseConfig):
    """The run goes back to its latest checkpoint, or its initial weights, and passes over the rows of the step."""

    kind: Literal["rollback"]
    budget: PositiveInt
    """How many times a run may go back in all; one more ends it."""


NonFiniteConfig = Annotated[RaiseConfig | SkipStepsConfig | RollbackConfig, Field(discriminator="kind")]


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


class EmaConfig(BaseConfig):
    """An exponential moving average of the learned weights, by which the model is evaluated, saved and used.

    After step s: average = d·average + (1 − d)·weights with d = min(decay, (1 + s) / (10 + s)), so that the first
    weights are soon forgotten (the `num_updates` of TensorFlow's ExponentialMovingAverage)."""

    decay: Annotated[float, Field(gt=0, lt=1)] = 0.999
    """The share of the average that a step leaves; about the last 1 / (1 − decay) steps count."""


class InitialWeightsConfig(BaseConfig):
    """What a warm start takes from where, for a model that is not the old one.

    Names are paths of modules or weights, such as `towers.like`; of several that hold a weight the longest counts. What
    none holds comes from its own name."""

    map: dict[Name, Name] = {}
    """What is here: what it starts from in the old model."""
    fresh: list[Name] = []
    """What starts as in a new model."""

    def checks(self) -> tuple[Check, ...]:
        """A name with two origins."""
        return (self._origins_are_clear,)

    def _origins_are_clear(self) -> Problems:
        for index, name in enumerate(self.fresh):
            if name in self.map:
                yield ("fresh", index), f"{name!r} stands in map too; leave out one of the two"
            elif name in self.fresh[:index]:
                yield ("fresh", index), f"{name!r} is named twice; once is enough"


Precision = Literal["auto", "float32", "tf32", "bf16", "float16"]


class TrainingConfig(BaseConfig):
    """The section `training`. Every interval counts optimizer steps and holds independently of the others."""

    save_dir: Name = "/tmp/model"
    """The run: checkpoints, logs and evaluations go here."""
    num_train_steps: PositiveInt = 1_000_000
    """Optimizer steps in all."""
    initial_checkpoint_dir: Name | None = None
    """Warm start: weights come from this model directory, the step is counted from 0."""
    initial_weights: InitialWeightsConfig | None = None
    """What of that model goes where; none given: everything must fit, name by name."""
    checkpoint_every_n: PositiveInt = 1000
    """Steps between checkpoints; the last step is always saved."""
    checkpoint_max_to_keep: PositiveInt | None = None
    """How many of the latest checkpoints stay; none given: all."""
    train_log_every_n: PositiveInt = 1000
    """Steps between lines of training losses and rates."""
    log_norms: bool = False
    """Whether these lines tell the norms of the weights of each part of the model, and of each embedding table."""
    num_eval_steps: int = 16384
    """Batches in an evaluation; below 0 the whole data set."""
    eval_log_every_n: PositiveInt | None = 5000
    """Steps between evaluations while training; the last step is always evaluated. null: `recap evaluate` does it."""
    eval_timeout_in_s: PositiveFloat = 3600.0
    """Seconds after which an evaluation while training is given up; training goes on."""
    watch: WatchConfig | None = None
    """A metric whose best checkpoint is kept, and that may cut the rates and end the run; none given: none."""
    mlflow: MlflowConfig | None = None
    """An MLflow run that takes what is logged; none given: none."""
    gradient_accumulation: PositiveInt | None = None
    """Micro-batches an optimizer step is cut into: less memory, the same step (but see BatchNorm in docs)."""
    ema: EmaConfig | None = None
    """A moving average of the weights to evaluate and save; none given: the weights themselves."""
    non_finite: NonFiniteConfig = RaiseConfig()
    """What a step does whose losses or gradients are not finite."""
    preemption_grace_seconds: PositiveFloat = 30.0
    """Seconds from a signal to the end of the run; a step that is not done after half of them is given up."""
    precision: Precision = "auto"
    """What the network computes in while it is trained; weights, moments and losses are float32 in any case.

    `bf16`, `float16`: by autocast; under float16 losses are scaled, so that small gradients do not vanish. `tf32`:
    float32 whose products a GPU rounds to TF32. `auto`: bf16 where the hardware has it."""
    compile: bool = False
    """Whether torch.compile makes kernels for the network: minutes at the start for faster steps."""
    seed: NonNegativeInt = 0
    """Fixes initial weights, the order of the rows and dropout."""
