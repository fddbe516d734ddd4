"""`RecapConfig`, the whole of what a run is, and the checks that cross its sections."""

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any

from pydantic import Field, PrivateAttr

from recap.config.balancing import GradNormConfig, PcGradConfig
from recap.config.base import Disagreements, Name, WholeConfig
from recap.config.data import DataConfig, TrainDataConfig, ValidationDataConfig
from recap.config.features import FeaturesConfig
from recap.config.keys import suggest
from recap.config.loss import RegressionConfig
from recap.config.metrics import BINARY_METRICS, REGRESSION_METRICS, MetricName
from recap.config.model import ModelConfig
from recap.config.node import Path
from recap.config.optimizer import DEFAULT, OptimizerConfig
from recap.config.scoring import ScoringConfig
from recap.config.sharing import ShareNoneConfig
from recap.config.training import TrainingConfig


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

    def checks(self) -> tuple[Disagreements, ...]:
        """What sections do not agree about."""
        return (
            _column_problems(self),
            _embedding_problems(self),
            _task_problems(self),
            _metric_problems(self),
            _weight_problems(self),
            _rate_problems(self),
            _batch_problems(self),
            _regression_problems(self),
            _pair_problems(self),
            _balancing_problems(self),
        )

    _secrets: dict[Path, str] = PrivateAttr(default_factory=dict)

    @property
    def secrets(self) -> Mapping[Path, str]:
        """The values that secrets made, as what may be stored of them."""
        return self._secrets

    def remember_secrets(self, found: Mapping[Path, str]) -> None:
        """Have the values at these paths stored as their references."""
        self._secrets = dict(found)

    @property
    def tasks(self) -> list[str]:
        """The one order of the task axis."""
        return list(self.model.tasks)

    @property
    def regressions(self) -> list[str]:
        """The tasks that predict how much of something, in the order of tasks."""
        return [name for name, task in self.model.tasks.items() if isinstance(task.objective, RegressionConfig)]

    def data_sets(self) -> Iterator[tuple[Path, DataConfig]]:
        """Every data set, with its path: the one to train on, then those to validate on."""
        yield ("train_data",), self.train_data
        yield from ((("validation_data", name), data) for name, data in self.validation_data.items())


def _column_problems(config: RecapConfig) -> Disagreements:
    features = config.features
    seen: set[str] = set()
    for path, name in _input_columns(features):
        if name in seen:
            yield path, f"column {name!r} is declared twice; each column has one role"
        if name in config.model.tasks:
            yield path, f"{name!r} is a task, so its column is a label and cannot be a feature"
        seen.add(name)
    if not seen:
        yield ("features",), "no column feeds the model; name some under continuous, binary, discrete or vectors"
    if DEFAULT in features.discrete:
        yield ("features", "discrete", DEFAULT), "'default' is a reserved name; rename the column"


def _embedding_problems(config: RecapConfig) -> Disagreements:
    features, widths = config.features, config.model.embeddings
    for name in features.discrete:
        if name not in widths and DEFAULT not in widths:
            yield (
                ("model", "embeddings"),
                f"no width for discrete feature {name!r}; add '{name}: WIDTH' or 'default: WIDTH'",
            )
    for name in widths:
        if name not in features.discrete and name != DEFAULT:
            yield ("model", "embeddings", name), _unknown(name, "discrete feature", list(features.discrete))


def _input_columns(features: FeaturesConfig) -> Iterator[tuple[Path, str]]:
    """The columns the model reads, with the place that names each."""
    for role in ("continuous", "binary"):
        yield from ((("features", role, index), column.name) for index, column in enumerate(getattr(features, role)))
    for role in ("discrete", "vectors"):
        yield from ((("features", role, name), name) for name in getattr(features, role))


def _task_problems(config: RecapConfig) -> Disagreements:
    if DEFAULT in config.model.tasks:
        yield ("model", "tasks", DEFAULT), "'default' is a reserved name; rename the task"
    for path, data in config.data_sets():
        chosen = data.evaluation_tasks if isinstance(data, ValidationDataConfig) else None
        for index, task in enumerate(chosen or []):
            if task not in config.model.tasks:
                yield (*path, "evaluation_tasks", index), _unknown(task, "task", config.tasks)
            elif task in (chosen or [])[:index]:
                yield (*path, "evaluation_tasks", index), f"{task!r} is named twice; once is enough"
        for task in config.tasks if chosen is None else chosen:
            if task in config.model.tasks and task not in data.tasks:
                yield (*path, "tasks"), f"no label for task {task!r}; add '{task}: {{}}', or drop the task"
        for task in data.tasks:
            if task not in config.model.tasks:
                yield (*path, "tasks", task), _unknown(task, "task", config.tasks)
        for index, task in enumerate(_kept_positives(data)):
            if task not in config.model.tasks:
                yield (*path, "downsample_negatives", "keep_positives_of", index), _unknown(task, "task", config.tasks)
        for task in data.rectify_labels.engaged_at if data.rectify_labels is not None else ():
            if task not in config.model.tasks:
                yield (*path, "rectify_labels", "engaged_at", task), _unknown(task, "task", config.tasks)


def _kept_positives(data: DataConfig) -> list[str]:
    sampling = data.downsample_negatives if isinstance(data, TrainDataConfig) else None
    return sampling.keep_positives_of if sampling is not None else []


def _metric_problems(config: RecapConfig) -> Disagreements:
    names = config.which_metrics or []
    for index, name in enumerate(names):
        if name in names[:index]:
            yield ("which_metrics", index), f"{name!r} is named twice; once is enough"
        if name not in BINARY_METRICS and not config.regressions:
            yield ("which_metrics", index), f"{name!r} is a metric of regression tasks; there is none"
        if name not in REGRESSION_METRICS and len(config.regressions) == len(config.tasks):
            yield ("which_metrics", index), f"{name!r} is a metric of binary tasks; there is none"


def _regression_problems(config: RecapConfig) -> Disagreements:
    """What is said of the positives of tasks that have none."""
    regressions = config.regressions
    for path, data in config.data_sets():
        for task, rates in data.tasks.items():
            for field in ("pos_downsampling_rate", "neg_downsampling_rate"):
                if task in regressions and getattr(rates, field) != 1:
                    text = "is a regression, which has no positives and negatives that were sampled; leave it out"
                    yield (*path, "tasks", task, field), f"{task!r} {text}"
        for index, task in enumerate(_kept_positives(data)):
            if task in regressions:
                yield (
                    (*path, "downsample_negatives", "keep_positives_of", index),
                    f"{task!r} is a regression, which has no positives; name binary tasks",
                )
        for task in data.rectify_labels.engaged_at if data.rectify_labels is not None else ():
            if task in regressions:
                yield (
                    (*path, "rectify_labels", "engaged_at", task),
                    f"{task!r} is a regression, which has no positives that could be late; leave it out",
                )


def _pair_problems(config: RecapConfig) -> Disagreements:
    for name, task in config.model.tasks.items():
        if task.pairwise is not None and config.features.user is None:
            yield (
                ("model", "tasks", name, "pairwise"),
                "pairs are those of one user, and no column tells users apart; set features.user, or leave it out",
            )


def _balancing_problems(config: RecapConfig) -> Disagreements:
    balancing = config.optimizer.balancing
    if isinstance(balancing, PcGradConfig | GradNormConfig):
        if isinstance(config.model.sharing, ShareNoneConfig):
            yield (
                ("optimizer", "balancing"),
                f"{balancing.kind} balances the gradients of what tasks share, and with share_none they share no "
                "backbone; use 'none' or 'uncertainty', or another sharing",
            )
        if len(config.tasks) < 2:
            yield (
                ("optimizer", "balancing"),
                f"{balancing.kind} balances tasks against each other, and there is one; leave it out",
            )


def _weight_problems(config: RecapConfig) -> Disagreements:
    for task in config.scoring.weights:
        if task not in config.model.tasks:
            yield ("scoring", "weights", task), _unknown(task, "task", config.tasks)


def _rate_problems(config: RecapConfig) -> Disagreements:
    towers = config.optimizer.towers
    for task in config.tasks:
        if task not in towers and DEFAULT not in towers:
            yield (
                ("optimizer", "towers"),
                f"no learning rate for the tower of {task!r}; add '{task}: {{…}}' or 'default: {{…}}'",
            )
    for task in towers:
        if task not in config.model.tasks and task != DEFAULT:
            yield ("optimizer", "towers", task), _unknown(task, "task", config.tasks)


def _batch_problems(config: RecapConfig) -> Disagreements:
    parts, rows = config.training.gradient_accumulation or 1, config.train_data.global_batch_size
    if parts > rows:
        yield ("training", "gradient_accumulation"), f"{parts} micro-batches need at least as many rows, found {rows}"
    elif rows // parts < 2 and _has_batch_norm(config):
        yield (
            ("training", "gradient_accumulation") if parts > 1 else ("train_data", "global_batch_size"),
            f"BatchNorm needs at least 2 rows in a micro-batch; {rows} rows in {parts} parts leave 1",
        )


def _has_batch_norm(config: RecapConfig) -> bool:
    """Whether any layer normalises over the rows of a micro-batch."""
    model = config.model
    networks: list[Any] = [model.backbone, *(task.tower for task in model.tasks.values())]
    networks += [getattr(network, "mlp", None) for network in networks]
    featurizes = model.featurization.batch_norm is not None and bool(config.features.continuous)
    return featurizes or any(getattr(network, "batch_norm", None) is not None for network in networks)


def _unknown(name: str, what: str, known: list[str]) -> str:
    return f"{name!r} is no {what} of this configuration. {suggest(name, known)}"
