"""Teachers that are models: they score every micro-batch, and tasks of the run learn from their predictions.

A run opens a model directory for each, as prediction does, and never stores it. Its training data is read for the
features of the teachers too (`RowEncoder.teachers`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from recap.config.loss import ModelTeacherConfig, RegressionConfig
from recap.config.model import TaskConfig
from recap.config.recap import JobMode, RecapConfig
from recap.data.batch import Batch
from recap.data.encoding.assets import Assets
from recap.data.encoding.encoder import RowEncoder
from recap.errors import CheckpointError, ConfigError, InputError
from recap.model.directory import model_checksum, open_inputs, open_model
from recap.model.scorer import Scorer
from recap.runs import find_model_directory
from recap.text import suggest


class _Lesson(NamedTuple):
    """What a teacher teaches."""

    task: str
    of_teacher: str
    """The task of the teacher."""


def teacher_encoders(config: RecapConfig) -> dict[str, RowEncoder]:
    """The first task of each teacher → what that teacher reads; for commands that only read the data of a run.

    Raises CheckpointError for a directory without a model.
    """
    return {
        lessons[0].task: _encoder(*open_inputs(_folder(directory, lessons)))
        for directory, lessons in _lessons(config).items()
    }


class Teachers:
    """Puts the calibrated predictions of teachers into batches."""

    def __init__(self, config: RecapConfig, device: torch.device) -> None:
        """Raises CheckpointError for a directory without a model, and ConfigError for a task that it lacks."""
        self.tasks = config.tasks
        self.checksums: dict[str, str] = {}
        """Task → the checksum of the model that it learns from."""
        self._teachers: list[_Teacher] = []
        for directory, lessons in _lessons(config).items():
            folder = _folder(directory, lessons)
            self.checksums |= {lesson.task: model_checksum(folder) for lesson in lessons}
            model = open_model(folder)
            for lesson in lessons:
                _check_lesson(lesson, config.model.tasks[lesson.task], model.config, directory)
            columns = {self.tasks.index(own): model.config.tasks.index(other) for own, other in lessons}
            scorer = model.scorer(model.config, device).eval().requires_grad_(False)
            self._teachers.append(_Teacher(_encoder(model.config, model.assets), scorer, columns))

    @property
    def encoders(self) -> Sequence[RowEncoder]:
        """What each teacher reads."""
        return [teacher.encoder for teacher in self._teachers]

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Batch:
        """`batch`, on the device, with the predictions of the teachers in `teacher` instead of what they read."""
        if batch.teacher_inputs is None:
            return batch
        predictions = batch.teacher
        if predictions is None:
            predictions = torch.full((len(batch), len(self.tasks)), torch.nan, device=batch.continuous.device)
        columns = list(predictions.unbind(dim=1))
        for number, teacher in enumerate(self._teachers):
            scores = teacher.scorer(teacher.read(batch.teacher_inputs, f"{number}/"))
            for own, other in teacher.columns.items():
                columns[own] = scores.calibrated_probabilities[:, other]
        return replace(batch, teacher=torch.stack(columns, dim=1), teacher_inputs=None)

    def state_dict(self) -> Mapping[str, Any]:
        return self.checksums

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises InputError if a teacher is another model than the one that the run started with."""
        for task, checksum in self.checksums.items():
            if state.get(task) != checksum:
                raise InputError(
                    f"model.tasks.{task}.distillation.directory: is not the model with which this run started; name "
                    "that one, or start a new run with another training.save_dir"
                )


class _Teacher(NamedTuple):
    """A teacher on the device."""

    encoder: RowEncoder
    scorer: Scorer
    columns: Mapping[int, int]
    """Index of a task → index of the task of the teacher."""

    def read(self, inputs: Mapping[str, torch.Tensor], prefix: str) -> Batch:
        """What the teacher reads, from `Batch.teacher_inputs`."""
        template = self.encoder.empty()
        return template.with_tensors({name: inputs[prefix + name] for name in template.tensors()})


def _lessons(config: RecapConfig) -> dict[str, list[_Lesson]]:
    """Directory → what its model teaches."""
    lessons: dict[str, list[_Lesson]] = {}
    for name, task in config.model.tasks.items():
        if isinstance(task.distillation, ModelTeacherConfig):
            lesson = _Lesson(name, task.distillation.task or name)
            lessons.setdefault(task.distillation.directory, []).append(lesson)
    return lessons


def _folder(directory: str, lessons: Sequence[_Lesson]) -> Path:
    try:
        return find_model_directory(Path(directory))
    except CheckpointError as error:
        raise CheckpointError(f"model.tasks.{lessons[0].task}.distillation.directory: {error}") from None


def _encoder(config: RecapConfig, assets: Assets) -> RowEncoder:
    return RowEncoder.for_job(config, assets, JobMode.INFERENCE)


def _check_lesson(lesson: _Lesson, task: TaskConfig, teacher: RecapConfig, directory: str) -> None:
    """Raise ConfigError unless the teacher has the task, and predicts what this one does."""
    path, name = f"model.tasks.{lesson.task}.distillation", lesson.of_teacher
    if name not in teacher.tasks:
        text = f"{directory} has no task {name!r}. {suggest(name, teacher.tasks)}"
        raise ConfigError(f"{path}.task: {text} Name the task to learn from as {path}.task")
    own, other = task.objective, teacher.model.tasks[name].objective
    if own.kind != other.kind:
        text = f"{name!r} of {directory} is {other.kind}, and {lesson.task!r} is {own.kind}"
        raise ConfigError(f"{path}: {text}; learn from a task of the same kind")
    if isinstance(own, RegressionConfig) and isinstance(other, RegressionConfig) and own.transform != other.transform:
        text = f"{name!r} of {directory} has transform {other.transform}, and {lesson.task!r} {own.transform}"
        raise ConfigError(f"{path}: {text}; learn from a task with the same transform")
