"""What is said of the weights of a model in several sections, as far as it can be told without the model."""

from typing import TYPE_CHECKING

from recap.config.base import Problems
from recap.text import suggest

if TYPE_CHECKING:
    from recap.config.recap import RecapConfig

MODULES = ("inputs", "sharing", "cascade", "towers")
"""The parts of every model; which modules they hold is known when it is built."""


def frozen_problems(config: "RecapConfig") -> Problems:
    """Modules that no model has, or that are named twice."""
    names = config.optimizer.frozen
    for index, name in enumerate(names):
        path = ("optimizer", "frozen", index)
        around = [other for other in names if other != name and f"{name}.".startswith(f"{other}.")]
        if problem := _no_module(config, name):
            yield path, problem
        elif name in names[:index]:
            yield path, f"{name!r} is named twice; once is enough"
        elif around:
            yield path, f"{name!r} is a part of {around[0]!r}, which is named too; once is enough"


def warm_start_problems(config: "RecapConfig") -> Problems:
    """Weights that are told from where, when they come from nowhere, or where no model has any."""
    said, path = config.training.initial_weights, ("training", "initial_weights")
    if said is None:
        return
    if config.training.initial_checkpoint_dir is None:
        yield path, "says what comes from training.initial_checkpoint_dir, which is not set; set it, or leave this out"
    for name in said.map:
        if problem := _no_module(config, name):
            yield (*path, "map", name), problem
    for index, name in enumerate(said.fresh):
        if problem := _no_module(config, name):
            yield (*path, "fresh", index), problem


def _no_module(config: "RecapConfig", name: str) -> str | None:
    """What is wrong with the path of a module, as far as it can be told."""
    first, *below = name.split(".")
    if first not in MODULES:
        return f"{name!r} is no module of a model. {suggest(name, list(MODULES))}"
    towers, tower = [f"towers.{_as_module(task)}" for task in config.tasks], ".".join(["towers", *below[:1]])
    if first == "towers" and below and tower not in towers and tower.removesuffix("%") not in towers:
        return f"{name!r} is the tower of no task. {suggest(tower, towers)}"
    return None


def _as_module(name: str) -> str:
    """A task as modules call it (`recap.model.names`), but for a % after some names that torch uses itself."""
    return name.replace("%", "%25").replace(".", "%2E")
