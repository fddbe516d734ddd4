"""Metrics and strata that a run cannot report."""

from typing import TYPE_CHECKING

from recap.config.base import Problems
from recap.config.checks.common import unknown
from recap.config.discrete import HashSpace, IntegerSpace, VocabularySpace
from recap.config.metrics import BINARY_METRICS, GROUPED_METRICS, REGRESSION_METRICS
from recap.text import suggest

if TYPE_CHECKING:
    from recap.config.recap import RecapConfig


def metric_problems(config: "RecapConfig") -> Problems:
    """Metrics named twice, or of no task."""
    names = config.which_metrics or []
    for index, name in enumerate(names):
        if name in names[:index]:
            yield ("which_metrics", index), f"{name!r} is named twice; once is enough"
        if name not in BINARY_METRICS and not config.regressions:
            yield ("which_metrics", index), f"{name!r} is a metric of regression tasks; there is none"
        if name not in REGRESSION_METRICS and len(config.regressions) == len(config.tasks):
            yield ("which_metrics", index), f"{name!r} is a metric of binary tasks; there is none"


def watch_problems(config: "RecapConfig") -> Problems:
    """A watched metric that is not reported."""
    watch, path = config.training.watch, ("training", "watch")
    if watch is None:
        return
    if config.training.eval_log_every_n is None:
        yield path, "needs evaluations while training, and training.eval_log_every_n is null; give a number of steps"
    if watch.split not in config.validation_data:
        yield (*path, "split"), unknown(watch.split, "validation set", list(config.validation_data))
        return
    if config.which_metrics is not None and watch.metric not in config.which_metrics:
        yield (*path, "metric"), f"{watch.metric!r} is not among which_metrics; add it there"
    if watch.metric in GROUPED_METRICS and config.features.user is None:
        yield (*path, "metric"), f"{watch.metric} needs features.user; name the column there"
    chosen = config.validation_data[watch.split].evaluation_tasks
    evaluated = config.tasks if chosen is None else chosen
    for index, task in enumerate(watch.tasks or []):
        if task not in evaluated:
            yield (*path, "tasks", index), f"{task!r} is not evaluated on {watch.split}. {suggest(task, evaluated)}"
        elif task in (watch.tasks or [])[:index]:
            yield (*path, "tasks", index), f"{task!r} is named twice; once is enough"
        elif not _has_metric(config, task, watch.metric):
            yield (*path, "tasks", index), f"{task!r} has no {watch.metric}, which is of another kind of task"
    if not any(_has_metric(config, task, watch.metric) for task in evaluated):
        yield (*path, "metric"), f"no task that is evaluated on {watch.split} has {watch.metric}"


def _has_metric(config: "RecapConfig", task: str, metric: str) -> bool:
    return task in config.tasks and metric in (REGRESSION_METRICS if task in config.regressions else BINARY_METRICS)


def stratum_problems(config: "RecapConfig") -> Problems:
    """Values that no row can have."""
    features = config.features
    for name, stratum in config.strata.items():
        path, discrete = ("strata", name), features.discrete
        if stratum.feature not in discrete:
            yield (*path, "feature"), unknown(stratum.feature, "discrete feature", list(discrete))
            continue
        feature, value = discrete[stratum.feature], stratum.value
        if feature.length > 1:
            yield (*path, "feature"), f"{stratum.feature!r} holds {feature.length} codes a row; a stratum needs one"
        space = features.code_spaces.get(features.table_of(stratum.feature, feature))
        if isinstance(space, HashSpace):
            yield (*path, "feature"), f"{stratum.feature!r} is hashed, and other values may have the same code"
        elif isinstance(space, IntegerSpace) and not (isinstance(value, int) and 0 <= value < space.size):
            yield (*path, "value"), f"{stratum.feature!r} has the codes 0 to {space.size - 1}, found {value!r}"
        elif isinstance(space, VocabularySpace) and not isinstance(value, str):
            yield (*path, "value"), f"{stratum.feature!r} has a vocabulary of strings, found {value!r}"
