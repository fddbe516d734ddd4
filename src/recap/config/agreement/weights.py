"""What is said of the weights of a model in several sections, as far as it can be told without the model."""

from typing import TYPE_CHECKING

from recap.config.base import Disagreements
from recap.config.keys import suggest

if TYPE_CHECKING:
    from recap.config.recap import RecapConfig

MODULES = ("inputs", "sharing", "cascade", "towers")
"""The parts of every model; which modules they hold is known when it is built."""


def frozen_problems(config: "RecapConfig") -> Disagreements:
    """Modules that no model has, or that are named twice, and towers of no task."""
    names = config.optimizer.frozen
    towers = [f"towers.{_as_module(task)}" for task in config.tasks]
    for index, name in enumerate(names):
        first, *below = name.split(".")
        others = [other for other in names[:index] + names[index + 1 :] if f"{name}.".startswith(f"{other}.")]
        tower = ".".join(["towers", *below[:1]])
        if first not in MODULES:
            yield ("optimizer", "frozen", index), f"{name!r} is no module of a model. {suggest(name, list(MODULES))}"
        elif first == "towers" and below and tower not in towers and tower.removesuffix("%") not in towers:
            yield ("optimizer", "frozen", index), f"{name!r} is the tower of no task. {suggest(tower, towers)}"
        elif others and (others[0] != name or name in names[:index]):
            what = "is named twice" if others[0] == name else f"is a part of {others[0]!r}, which is named too"
            yield ("optimizer", "frozen", index), f"{name!r} {what}; once is enough"


def _as_module(name: str) -> str:
    """A task as modules call it (`recap.model.names`), but for a % after some names that torch uses itself."""
    return name.replace("%", "%25").replace(".", "%2E")
