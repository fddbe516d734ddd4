"""Checks of metrics and strata against tasks, data sets and features."""

from collections.abc import Mapping, Sequence

from recap.config.base import Problems
from recap.config.checks.common import twice, unknown
from recap.config.data import ValidationDataConfig
from recap.config.discrete import HashSpace, IntegerSpace, VocabularySpace
from recap.config.evaluation.metrics import BINARY_METRICS, GROUPED_METRICS, REGRESSION_METRICS, MetricsConfig
from recap.config.evaluation.strata import StratumConfig
from recap.config.features import FeaturesConfig
from recap.config.model import ModelConfig
from recap.config.training import TrainingConfig
from recap.text import suggest


def metric_problems(which_metrics: Sequence[str] | None, model: ModelConfig) -> Problems:
    """Each metric is listed once, and some task has it."""
    names = which_metrics or []
    for index, name in enumerate(names):
        if name in names[:index]:
            yield ("which_metrics", index), twice(name)
        if name not in BINARY_METRICS and not model.regressions:
            yield ("which_metrics", index), f"{name!r} is a metric of regression tasks, and there are none; remove it"
        if name not in REGRESSION_METRICS and len(model.regressions) == len(model.tasks):
            yield ("which_metrics", index), f"{name!r} is a metric of binary tasks, and there are none; remove it"


def list_problems(metrics: MetricsConfig, features: FeaturesConfig) -> Problems:
    """The columns that make a list are set."""
    needed = {"user": ["user"], "request": ["request"], "user_day": ["user", "timestamp"]}
    for name in needed[metrics.lists] if metrics.lists is not None else []:
        if getattr(features, name) is None:
            yield ("metrics", "lists"), f"{metrics.lists} needs features.{name}, the column of the {name}; set it"


def watch_problems(
    training: TrainingConfig,
    validation_data: Mapping[str, ValidationDataConfig],
    which_metrics: Sequence[str] | None,
    features: FeaturesConfig,
    model: ModelConfig,
) -> Problems:
    """The watched metric is reported in training, for the watched tasks."""
    watch, path = training.watch, ("training", "watch")
    if watch is None:
        return
    if training.eval_log_every_n is None:
        yield path, "needs evaluations in training; set training.eval_log_every_n, which is null"
    if watch.split not in validation_data:
        yield (*path, "split"), unknown(watch.split, "split", validation_data)
        return
    if which_metrics is not None and watch.metric not in which_metrics:
        yield (*path, "metric"), f"{watch.metric!r} is not in which_metrics; add it"
    if watch.metric in GROUPED_METRICS and features.user is None and features.request is None:
        yield (
            (*path, "metric"),
            f"{watch.metric} needs features.user or features.request, the column of the user or request; set one",
        )
    chosen = validation_data[watch.split].evaluation_tasks
    evaluated = list(model.tasks) if chosen is None else chosen
    for index, task in enumerate(watch.tasks or []):
        if task not in evaluated:
            yield (*path, "tasks", index), f"{task!r} is not evaluated on {watch.split}. {suggest(task, evaluated)}"
        elif task in (watch.tasks or [])[:index]:
            yield (*path, "tasks", index), twice(task)
        elif not _has_metric(model, task, watch.metric):
            kind = "regression" if task in model.regressions else "binary"
            yield (*path, "tasks", index), f"{task!r} is a {kind} task and has no {watch.metric}"
    if not any(_has_metric(model, task, watch.metric) for task in evaluated):
        yield (*path, "metric"), f"no task evaluated on {watch.split} has {watch.metric}"


def _has_metric(model: ModelConfig, task: str, metric: str) -> bool:
    metrics = REGRESSION_METRICS if task in model.regressions else BINARY_METRICS
    return task in model.tasks and metric in metrics


def stratum_problems(strata: Mapping[str, StratumConfig], features: FeaturesConfig) -> Problems:
    """A stratum selects a value that the feature can have."""
    for name, stratum in strata.items():
        path, value = ("strata", name), stratum.value
        if stratum.feature not in features.discrete:
            yield (*path, "feature"), unknown(stratum.feature, "discrete feature", features.discrete)
            continue
        codes = features.discrete[stratum.feature]
        if codes.length > 1:
            yield (*path, "feature"), f"{stratum.feature!r} has {codes.length} codes per row; a stratum needs one"
        space = features.code_spaces.get(features.table_of(stratum.feature, codes))
        if isinstance(space, HashSpace):
            yield (
                (*path, "feature"),
                f"{stratum.feature!r} is hashed, so its values share codes; use size or a vocabulary",
            )
        elif isinstance(space, IntegerSpace) and not (isinstance(value, int) and 0 <= value < space.size):
            yield (*path, "value"), f"{stratum.feature!r} has the codes 0 to {space.size - 1}, found {value!r}"
        elif isinstance(space, VocabularySpace) and not isinstance(value, str):
            yield (*path, "value"), f"{stratum.feature!r} has a vocabulary; quote the value, found {value!r}"
