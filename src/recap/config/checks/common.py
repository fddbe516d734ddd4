"""Types and messages shared by checks."""

from collections.abc import Iterable, Mapping

from recap.config.base import KeyPath
from recap.config.data import DataConfig
from recap.config.model import ModelConfig, TaskConfig
from recap.text import suggest

Tasks = Mapping[str, TaskConfig]
"""The tasks by name, `model.tasks`."""
DataSets = Iterable[tuple[KeyPath, DataConfig]]
"""Every data set with its path: `train_data`, then the splits of `validation_data`."""
SCORE = "score"
"""The column of scores in predictions."""


def is_position(model: ModelConfig, name: str) -> bool:
    """Whether a discrete feature is the position of `model.position_debias`, which has its own embedding."""
    return model.position_debias is not None and model.position_debias.feature == name


def unknown(name: str, noun: str, known: Iterable[str]) -> str:
    """Message for an unknown name."""
    return f"unknown {noun} {name!r}. {suggest(name, list(known))}"


def twice(name: str) -> str:
    """Message for a name that a list repeats."""
    return f"{name!r} is listed twice; remove one"
