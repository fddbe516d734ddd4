"""Checks of metrics and strata against tasks, data sets and features."""

from collections.abc import Mapping, Sequence
from typing import assert_never

from recap.config.base import KeyPath, Problems
from recap.config.checks.common import twice, unknown
from recap.config.data import ValidationDataConfig
from recap.config.discrete import HashSpace, IntegerSpace, VocabularySpace, ZeroCollisionSpace
from recap.config.evaluation.metrics import BINARY_METRICS, GROUPED_METRICS, REGRESSION_METRICS, MetricsConfig
from recap.config.evaluation.strata import (
    HoursStratum,
    PeriodStratum,
    QuantileStratum,
    RangeStratum,
    StratumConfig,
    ValueStratum,
)
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
    """A stratum selects values that its feature can have, and times only if rows have them."""
    for name, stratum in strata.items():
        path = ("strata", name)
        match stratum:
            case ValueStratum():
                yield from _value_problems(path, stratum, features)
            case RangeStratum() | QuantileStratum():
                yield from _range_problems((*path, "feature"), stratum.feature, features)
            case PeriodStratum() | HoursStratum():
                if features.timestamp is None:
                    yield path, "selects by time, which needs features.timestamp, the column of the time; set it"
            case _:
                assert_never(stratum)


def field_problems(fields: Sequence[str], features: FeaturesConfig) -> Problems:
    """Field-RCE is of features with one value per row."""
    numeric = {column.name: column.length for column in (*features.continuous, *features.binary)}
    lengths = numeric | {name: discrete.length for name, discrete in features.discrete.items()}
    for index, name in enumerate(fields):
        path = ("metrics", "fields", index)
        if name not in lengths:
            yield path, unknown(name, "continuous, binary or discrete feature", lengths)
        elif lengths[name] > 1:
            yield path, f"{name!r} has {lengths[name]} values per row; Field-RCE needs one"
        elif name in fields[:index]:
            yield path, twice(name)


def _range_problems(path: KeyPath, name: str, features: FeaturesConfig) -> Problems:
    columns = {column.name: column for column in features.continuous}
    if name in features.discrete or name in [column.name for column in features.binary]:
        kind = "discrete" if name in features.discrete else "binary"
        yield path, f"{name!r} is a {kind} feature, and ranges are of continuous ones; select a value"
    elif name not in columns:
        yield path, unknown(name, "continuous feature", columns)
    elif columns[name].length > 1:
        yield path, f"{name!r} has {columns[name].length} values per row; a stratum needs one"


def _value_problems(path: KeyPath, stratum: ValueStratum, features: FeaturesConfig) -> Problems:
    name, value = stratum.feature, stratum.value
    binary = {column.name: column for column in features.binary}
    if name in binary:
        if binary[name].length > 1:
            yield (*path, "feature"), f"{name!r} has {binary[name].length} values per row; a stratum needs one"
        if value not in (0, 1):
            yield (*path, "value"), f"{name!r} is binary, with the values 0 and 1; found {value!r}"
        return
    if name in [column.name for column in features.continuous]:
        yield (*path, "value"), f"{name!r} is continuous; select a range with at_least and below"
        return
    if name not in features.discrete:
        yield (*path, "feature"), unknown(name, "discrete feature", features.discrete)
        return
    codes = features.discrete[name]
    if codes.length > 1:
        yield (*path, "feature"), f"{name!r} has {codes.length} codes per row; a stratum needs one"
    space = features.code_spaces.get(features.table_of(name, codes))
    if isinstance(space, HashSpace):
        yield (*path, "feature"), f"{name!r} is hashed, so its values share codes; use size or a vocabulary"
    elif isinstance(space, ZeroCollisionSpace):
        yield (
            (*path, "feature"),
            f"{name!r} has a zero-collision hash, whose codes have no names; use size or a vocabulary",
        )
    elif isinstance(space, IntegerSpace) and not (isinstance(value, int) and 0 <= value < space.size):
        yield (*path, "value"), f"{name!r} has the codes 0 to {space.size - 1}, found {value!r}"
    elif isinstance(space, VocabularySpace) and not isinstance(value, str):
        yield (*path, "value"), f"{name!r} has a vocabulary; quote the value, found {value!r}"
