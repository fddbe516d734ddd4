"""Checks of tasks against their labels, learning rates, score weights and losses."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

from recap.config.base import DEFAULT, Problems
from recap.config.checks.common import DataSets, Tasks, twice, unknown
from recap.config.data import DataConfig, TrainDataConfig, ValidationDataConfig
from recap.config.features import FeaturesConfig
from recap.config.loss import ColumnTeacherConfig, RegressionConfig
from recap.config.model import ModelConfig
from recap.config.optimizer import GradNormConfig, OptimizerConfig, PcGradConfig
from recap.config.sharing import AitmConfig, EsmmConfig, ShareNoneConfig


def task_problems(tasks: Tasks, data_sets: DataSets) -> Problems:
    """Every task has a label in each data set that needs it, and data sets name only tasks of the model."""
    if DEFAULT in tasks:
        yield ("model", "tasks", DEFAULT), "'default' is reserved; rename the task"
    for path, data in data_sets:
        chosen = data.evaluation_tasks if isinstance(data, ValidationDataConfig) else None
        for index, task in enumerate(chosen or []):
            if task not in tasks:
                yield (*path, "evaluation_tasks", index), unknown(task, "task", tasks)
            elif task in (chosen or [])[:index]:
                yield (*path, "evaluation_tasks", index), twice(task)
        for task in tasks if chosen is None else chosen:
            if task in tasks and task not in data.tasks:
                yield (*path, "tasks"), f"no label for task {task!r}; add '{task}: {{}}', or remove the task"
        for task in data.tasks:
            if task not in tasks:
                yield (*path, "tasks", task), unknown(task, "task", tasks)
        for task, label in data.tasks.items():
            if (label.weight or data.weight) == (label.column or task):
                where = (*path, "tasks", task, "weight") if label.weight is not None else (*path, "weight")
                yield where, f"is the label of {task!r}, so its negatives would not count; use another column"
        for index, task in enumerate(_sampled_positives(data)):
            if task not in tasks:
                yield (*path, "downsample_negatives", "keep_positives_of", index), unknown(task, "task", tasks)
        for task in data.rectify_labels.engaged_at if data.rectify_labels is not None else ():
            if task not in tasks:
                yield (*path, "rectify_labels", "engaged_at", task), unknown(task, "task", tasks)


def _sampled_positives(data: DataConfig) -> list[str]:
    """The tasks of `downsample_negatives.keep_positives_of`."""
    sampling = data.downsample_negatives if isinstance(data, TrainDataConfig) else None
    return sampling.keep_positives_of if sampling is not None else []


def chain_problems(model: ModelConfig, train_data: TrainDataConfig) -> Problems:
    """The tasks of a chain are binary, and ESMM multiplies probabilities that need no calibration."""
    cascade = model.cascade
    for index, task in enumerate(cascade.chain if isinstance(cascade, AitmConfig | EsmmConfig) else []):
        if task in model.regressions:
            path = ("model", "cascade", "chain", index)
            yield path, f"{task!r} is a regression task; list binary tasks only"
    if isinstance(cascade, EsmmConfig):
        yield from _rates_along(cascade.chain, model.tasks)
    if not isinstance(cascade, EsmmConfig) or train_data.sampling_correction != "calibration":
        return
    for index, task in enumerate(cascade.chain):
        rates = train_data.tasks.get(task)
        if rates is not None and rates.pos_downsampling_rate != rates.neg_downsampling_rate:
            yield (
                ("model", "cascade", "chain", index),
                f"{task!r} is down-sampled in train_data.tasks, and esmm cannot calibrate the factors of a product; "
                "set train_data.sampling_correction: weights, or use aitm",
            )


def _rates_along(chain: Sequence[str], tasks: Tasks) -> Problems:
    """The initial rates of tasks whose probabilities multiply do not rise."""
    rates = {task: tasks[task].initial_rate for task in chain if task in tasks}
    numbers = [(task, rate) for task, rate in rates.items() if isinstance(rate, float)]
    for (before, higher), (task, rate) in pairwise(numbers):
        if rate >= higher:
            yield (
                ("model", "tasks", task, "initial_rate"),
                f"{rate:g} is not below {higher:g}, the rate of {before!r}, of which {task!r} is a part in "
                "model.cascade; lower it, or use auto",
            )


def regression_problems(tasks: Tasks, data_sets: DataSets) -> Problems:
    """Nothing refers to positives of regression tasks."""
    regressions = [name for name, task in tasks.items() if isinstance(task.objective, RegressionConfig)]
    for path, data in data_sets:
        for task, rates in data.tasks.items():
            for field in ("pos_downsampling_rate", "neg_downsampling_rate"):
                if task in regressions and getattr(rates, field) != 1:
                    text = "is a regression task, without positives and negatives; remove this rate"
                    yield (*path, "tasks", task, field), f"{task!r} {text}"
            if task in regressions and rates.at_least is not None:
                path_of_field = (*path, "tasks", task, "at_least")
                yield path_of_field, f"{task!r} is a regression task, whose label is a number; remove at_least"
        for index, task in enumerate(_sampled_positives(data)):
            if task in regressions:
                yield (
                    (*path, "downsample_negatives", "keep_positives_of", index),
                    f"{task!r} is a regression task, without positives; list binary tasks only",
                )
        for task in data.rectify_labels.engaged_at if data.rectify_labels is not None else ():
            if task in regressions:
                yield (
                    (*path, "rectify_labels", "engaged_at", task),
                    f"{task!r} is a regression task, without positives; remove it",
                )


def ranking_problems(model: ModelConfig, features: FeaturesConfig) -> Problems:
    """Losses on order need the column of their groups, and an output of their own that nothing else replaces."""
    columns = {"user": features.user, "request": features.request}
    chain = model.cascade.chain if isinstance(model.cascade, EsmmConfig) else []
    for name, task in model.tasks.items():
        at = ("model", "tasks", name)
        for field, loss in task.ranking_losses.items():
            if columns[loss.group] is None:
                yield (
                    (*at, field),
                    f"compares rows of the same {loss.group}; set features.{loss.group}, or remove {field}",
                )
        if task.jrc is None:
            continue
        if model.auxiliary_loss is not None:
            text = f"and {model.auxiliary_loss.kind} would divide them again; remove it, or remove model.auxiliary_loss"
            yield (*at, "jrc"), f"has two outputs for a task, {text}"
        if name in chain:
            yield (
                (*at, "jrc"),
                "has a logit for each label, which a product of probabilities lacks; remove it, or take the task out "
                "of the esmm chain",
            )


def distillation_problems(tasks: Tasks, data: TrainDataConfig) -> Problems:
    """The predictions of a teacher are no labels."""
    labels = {label.column or task: task for task, label in data.tasks.items()}
    for name, task in tasks.items():
        if isinstance(task.distillation, ColumnTeacherConfig) and task.distillation.column in labels:
            column = task.distillation.column
            yield (
                ("model", "tasks", name, "distillation", "column"),
                f"{column!r} is the label of {labels[column]!r}; name the column of the teacher's predictions",
            )


def balancing_problems(model: ModelConfig, optimizer: OptimizerConfig) -> Problems:
    """Balancing of gradients needs several tasks that share weights, and no loss that belongs to no task."""
    balancing = optimizer.balancing
    if not isinstance(balancing, PcGradConfig | GradNormConfig):
        return
    if isinstance(model.cascade, AitmConfig) and model.cascade.constraint_weight:
        yield (
            ("model", "cascade", "constraint_weight"),
            f"adds a loss that belongs to no task, which {balancing.kind} cannot balance; set it to 0",
        )
    if isinstance(model.sharing, ShareNoneConfig):
        yield (
            ("optimizer", "balancing"),
            f"{balancing.kind} balances gradients of shared weights, and share_none has no shared backbone; "
            "use 'none' or 'uncertainty', or another sharing",
        )
    if len(model.tasks) < 2:
        yield (
            ("optimizer", "balancing"),
            f"{balancing.kind} needs at least two tasks, found 1; remove it",
        )


def weight_problems(weights: Mapping[str, float], tasks: Tasks) -> Problems:
    """Score weights name only tasks of the model."""
    for task in weights:
        if task not in tasks:
            yield ("scoring", "weights", task), unknown(task, "task", tasks)


def rate_problems(tasks: Tasks, optimizer: OptimizerConfig) -> Problems:
    """Every tower has a learning rate, and every rate a tower."""
    towers = optimizer.towers
    for task in tasks:
        if task not in towers and DEFAULT not in towers:
            yield (
                ("optimizer", "towers"),
                f"no learning rate for the tower of {task!r}; add '{task}: {{…}}' or 'default: {{…}}'",
            )
    for task in towers:
        if task not in tasks and task != DEFAULT:
            yield ("optimizer", "towers", task), unknown(task, "task", tasks)
