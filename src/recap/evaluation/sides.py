"""The models that a report or a comparison shows side by side, evaluated on the same rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recap.config.recap import RecapConfig
from recap.data.open import open_split
from recap.errors import InputError
from recap.evaluation.asked import FREE_FEATURES, validated
from recap.evaluation.observers.observer import Observer
from recap.evaluation.remarks import training_files
from recap.evaluation.result import SplitResult
from recap.evaluation.run import evaluate_split
from recap.model.directory import SavedModel, open_model
from recap.reporting import Say
from recap.runs import Run, Step, find_model_directory
from recap.runtime import Runtime
from recap.storage import MANIFEST
from recap.text import shorten


@dataclass(frozen=True)
class Side:
    """A checkpoint, and the run it is of."""

    path: Path
    """The run or model directory that was asked for."""
    folder: Path
    """The model directory."""
    model: SavedModel

    @classmethod
    def open(cls, path: Path, step: Step | None = None) -> "Side":
        """Raises CheckpointError if there is no complete model."""
        folder = find_model_directory(path, step)
        return cls(path, folder, open_model(folder))

    @classmethod
    def open_as_is(cls, path: Path, step: Step | None) -> "Side":
        """As `open`; a model directory, which has no steps, is taken as it is."""
        return cls.open(path, step if is_run(path) else None)

    @property
    def is_run(self) -> bool:
        """Whether it is a run, rather than a model directory."""
        return is_run(self.path)

    @property
    def config(self) -> RecapConfig:
        """That of the run, or of the model directory."""
        return Run(self.path).config if self.is_run else self.model.config

    @property
    def name(self) -> str:
        """The run with its checkpoint, or the model directory."""
        name = self.path.resolve().name
        return f"{name}, {self.folder.name}" if self.is_run else name

    def records(self) -> list[dict[str, Any]]:
        """The records of its training; empty for a model directory."""
        return Run(self.path).metrics if self.is_run else []


def is_run(path: Path) -> bool:
    """Whether `path` is a run, rather than a model directory."""
    return not (path / MANIFEST).exists()


_REPORTS = ("which_metrics", "metrics", "strata", "slices")
_ROWS = ("user", "timestamp", *FREE_FEATURES)
"""The features that describe rows, not the input of a model."""


def side_config(side: Side, config: RecapConfig, split: str, tasks: Sequence[str]) -> RecapConfig:
    """The model of `side`; from `config` what an evaluation reads, with validation set `split`, labels of `tasks`.

    Raises ConfigError if they do not fit together.
    """
    if side.model.config.features != config.features:  # leave out what names features that this side may not have
        metrics = config.metrics.model_copy(update={"fields": []})
        config = config.model_copy(update={"strata": {}, "slices": None, "metrics": metrics})
    asked, trained = config.model_dump(), side.model.config.model_dump()
    data = asked["validation_data"][split]
    labels = {task: data["tasks"].get(task, trained["train_data"]["tasks"][task]) for task in side.model.config.tasks}
    data |= {"tasks": labels, "evaluation_tasks": [task for task in config.evaluated_tasks(split) if task in tasks]}
    values = {name: value for name, value in trained.items() if name not in _REPORTS}
    values |= {name: asked[name] for name in _REPORTS if name in asked} | {"validation_data": {split: data}}
    values["training"] |= {"num_eval_steps": config.training.num_eval_steps, "watch": None}
    values["features"] |= {name: getattr(config.features, name) for name in _ROWS}
    return validated(values, side.folder)


def common_tasks(side: Side, baseline: Side | None) -> list[str]:
    """The tasks that both models predict. Raises InputError if there are none."""
    tasks = list(side.model.config.tasks)
    if baseline is None:
        return tasks
    common = [task for task in tasks if task in baseline.model.config.tasks]
    if not common:
        theirs = shorten(", ".join(baseline.model.config.tasks))
        raise InputError(
            f"--baseline: {baseline.path} predicts {theirs}, and {side.path} {shorten(', '.join(tasks))}; choose a "
            "baseline with a task in common"
        )
    return common


def evaluated(
    side: Side, config: RecapConfig, split: str, runtime: Runtime, say: Say, others: Sequence[Observer] = ()
) -> SplitResult:
    """The result of one pass over the split, which `others` see too.

    Raises DataError if the files lack a column that the model reads.
    """
    model = side.model
    stream = open_split(config, model.assets, split, say)
    for text in training_files(config, split, side.name):
        say(text)
    return evaluate_split(model.scorer(config, runtime.device), stream, config, split, model.assets, runtime, others)
