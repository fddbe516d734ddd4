"""What is said of tasks in several sections, and does not go together."""

from typing import TYPE_CHECKING

from recap.config.base import DEFAULT, Problems
from recap.config.checks.common import unknown
from recap.config.data import DataConfig, TrainDataConfig, ValidationDataConfig
from recap.config.optimizer import GradNormConfig, PcGradConfig
from recap.config.sharing import AitmConfig, EsmmConfig, ShareNoneConfig

if TYPE_CHECKING:
    from recap.config.recap import RecapConfig


def task_problems(config: "RecapConfig") -> Problems:
    """Labels without a task, and tasks without a label."""
    if DEFAULT in config.model.tasks:
        yield ("model", "tasks", DEFAULT), "'default' is a reserved name; rename the task"
    for path, data in config.data_sets():
        chosen = data.evaluation_tasks if isinstance(data, ValidationDataConfig) else None
        for index, task in enumerate(chosen or []):
            if task not in config.model.tasks:
                yield (*path, "evaluation_tasks", index), unknown(task, "task", config.tasks)
            elif task in (chosen or [])[:index]:
                yield (*path, "evaluation_tasks", index), f"{task!r} is named twice; once is enough"
        for task in config.tasks if chosen is None else chosen:
            if task in config.model.tasks and task not in data.tasks:
                yield (*path, "tasks"), f"no label for task {task!r}; add '{task}: {{}}', or drop the task"
        for task in data.tasks:
            if task not in config.model.tasks:
                yield (*path, "tasks", task), unknown(task, "task", config.tasks)
        for index, task in enumerate(_kept_positives(data)):
            if task not in config.model.tasks:
                yield (*path, "downsample_negatives", "keep_positives_of", index), unknown(task, "task", config.tasks)
        for task in data.rectify_labels.engaged_at if data.rectify_labels is not None else ():
            if task not in config.model.tasks:
                yield (*path, "rectify_labels", "engaged_at", task), unknown(task, "task", config.tasks)


def chain_problems(config: "RecapConfig") -> Problems:
    """A chain is of probabilities, and ESMM multiplies them before calibration would correct the factors."""
    cascade, data = config.model.cascade, config.train_data
    for index, task in enumerate(cascade.chain if cascade is not None else []):
        if task in config.regressions:
            path = ("model", "cascade", "chain", index)
            yield path, f"{task!r} is a regression; a chain is of tasks that happen or do not"
    if not isinstance(cascade, EsmmConfig) or data.sampling_correction != "calibration":
        return
    for index, task in enumerate(cascade.chain):
        rates = data.tasks.get(task)
        if rates is not None and rates.pos_downsampling_rate != rates.neg_downsampling_rate:
            yield (
                ("model", "cascade", "chain", index),
                f"esmm multiplies the probability of {task!r}, which is of rows that train_data.tasks says were "
                "down-sampled, and calibration would correct only the product; "
                "set train_data.sampling_correction: weights, or take aitm",
            )


def _kept_positives(data: DataConfig) -> list[str]:
    sampling = data.downsample_negatives if isinstance(data, TrainDataConfig) else None
    return sampling.keep_positives_of if sampling is not None else []


def regression_problems(config: "RecapConfig") -> Problems:
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


def pair_problems(config: "RecapConfig") -> Problems:
    """Pairs without users."""
    for name, task in config.model.tasks.items():
        if task.pairwise is not None and config.features.user is None:
            yield (
                ("model", "tasks", name, "pairwise"),
                "pairs are those of one user, and no column tells users apart; set features.user, or leave it out",
            )


def balancing_problems(config: "RecapConfig") -> Problems:
    """Gradients that cannot be balanced."""
    balancing, cascade = config.optimizer.balancing, config.model.cascade
    if isinstance(balancing, PcGradConfig | GradNormConfig):
        if isinstance(cascade, AitmConfig) and cascade.constraint_weight:
            yield (
                ("model", "cascade", "constraint_weight"),
                f"adds a loss that is of no task, and {balancing.kind} parts losses by task; set it to 0",
            )
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


def weight_problems(config: "RecapConfig") -> Problems:
    """Score weights of no task."""
    for task in config.scoring.weights:
        if task not in config.model.tasks:
            yield ("scoring", "weights", task), unknown(task, "task", config.tasks)


def rate_problems(config: "RecapConfig") -> Problems:
    """Towers without a rate, and rates without a tower."""
    towers = config.optimizer.towers
    for task in config.tasks:
        if task not in towers and DEFAULT not in towers:
            yield (
                ("optimizer", "towers"),
                f"no learning rate for the tower of {task!r}; add '{task}: {{…}}' or 'default: {{…}}'",
            )
    for task in towers:
        if task not in config.model.tasks and task != DEFAULT:
            yield ("optimizer", "towers", task), unknown(task, "task", config.tasks)
