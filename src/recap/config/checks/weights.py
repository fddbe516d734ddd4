"""Checks of the paths of frozen and warm-started modules, as far as possible without building the model."""

from recap.config.base import Problems
from recap.config.checks.common import Tasks, twice
from recap.config.optimizer import OptimizerConfig
from recap.config.training import TrainingConfig
from recap.text import suggest

MODULES = ("inputs", "scenario", "sharing", "cascade", "towers")
"""The top-level modules of models; those below are known only once it is built."""


def frozen_problems(optimizer: OptimizerConfig, tasks: Tasks) -> Problems:
    """Frozen modules can exist, and each is listed once."""
    names = optimizer.frozen
    for index, name in enumerate(names):
        path = ("optimizer", "frozen", index)
        parents = [other for other in names if other != name and f"{name}.".startswith(f"{other}.")]
        if text := _unknown_module(name, tasks):
            yield path, text
        elif name in names[:index]:
            yield path, twice(name)
        elif parents:
            yield path, f"{name!r} is part of {parents[0]!r}, which is also listed; remove one"


def warm_start_problems(training: TrainingConfig, tasks: Tasks) -> Problems:
    """Initial weights come from a checkpoint and go to modules that can exist."""
    initial, path = training.initial_weights, ("training", "initial_weights")
    if initial is None:
        return
    if training.initial_checkpoint_dir is None:
        yield path, "needs training.initial_checkpoint_dir, which is not set; set it, or remove initial_weights"
    for name in initial.map:
        if text := _unknown_module(name, tasks):
            yield (*path, "map", name), text
    for index, name in enumerate(initial.fresh):
        if text := _unknown_module(name, tasks):
            yield (*path, "fresh", index), text


def _unknown_module(name: str, tasks: Tasks) -> str | None:
    """Message for a module path that no model has; None if it may exist."""
    first, *below = name.split(".")
    if first not in MODULES:
        return f"unknown module {name!r}. {suggest(name, list(MODULES))}"
    towers, tower = [f"towers.{_module_name(task)}" for task in tasks], ".".join(["towers", *below[:1]])
    if first == "towers" and below and tower not in towers and tower.removesuffix("%") not in towers:
        return f"unknown tower {name!r}. {suggest(tower, towers)}"
    return None


def _module_name(task: str) -> str:
    """A task in module paths (`recap.model.names`), without the trailing % of names that torch itself uses."""
    return task.replace("%", "%25").replace(".", "%2E")
