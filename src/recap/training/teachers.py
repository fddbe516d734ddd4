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
from recap.runs import better_checkpoint, find_model_directory
from recap.text import suggest


class Lesson(NamedTuple):
    """What a teacher teaches."""

    task: str
    of_teacher: str
    """The task of the teacher."""


def teacher_encoders(config: RecapConfig) -> dict[str, RowEncoder]:
    """The first task of each teacher → what that teacher reads; for commands that only read the data of a run.

    Raises CheckpointError for a directory without a model.
    """
    return {
        lessons[0].task: _encoder(*open_inputs(teacher_folder(directory, lessons)))
        for directory, lessons in lessons_of(config).items()
    }


class Teachers:
    """Puts the calibrated predictions of teachers into batches."""

    def __init__(self, config: RecapConfig, device: torch.device) -> None:
        """Raises CheckpointError for a directory without a model, and ConfigError for a task that it lacks."""
        self.tasks = config.tasks
        self.checksums: dict[str, str] = {}
        """Task → the checksum of the model that it learns from."""
        self.messages: list[str] = []
        """For the user: who teaches what."""
        self._folders: dict[str, Path] = {}
        self._teachers: list[_Teacher] = []
        for directory, lessons in lessons_of(config).items():
            folder = teacher_folder(directory, lessons)
            self.checksums |= {lesson.task: model_checksum(folder) for lesson in lessons}
            self._folders |= {lesson.task: folder for lesson in lessons}
            self.messages += _describe(directory, folder, lessons)
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
        return {
            task: {"checksum": checksum, "folder": str(self._folders[task])}
            for task, checksum in self.checksums.items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises InputError if a teacher is another model than the one that the run started with."""
        for task, checksum in self.checksums.items():
            stored = state.get(task)
            before = stored if isinstance(stored, dict) else {"checksum": stored}  # an earlier recap stored no folder
            if before["checksum"] != checksum:
                advice = _is_another(str(self._folders[task]), before.get("folder"))
                raise InputError(
                    f"{_directory_field(task)}: {advice}, or start a new run with another training.save_dir"
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


def lessons_of(config: RecapConfig) -> dict[str, list[Lesson]]:
    """Directory → what its model teaches."""
    lessons: dict[str, list[Lesson]] = {}
    for name, task in config.model.tasks.items():
        if isinstance(task.distillation, ModelTeacherConfig):
            lesson = Lesson(name, task.distillation.task or name)
            lessons.setdefault(task.distillation.directory, []).append(lesson)
    return lessons


def teacher_folder(directory: str, lessons: Sequence[Lesson]) -> Path:
    """The model directory of a teacher. Raises CheckpointError, which names the field, if there is none."""
    try:
        return find_model_directory(Path(directory))
    except CheckpointError as error:
        raise CheckpointError(f"{_directory_field(lessons[0].task)}: {error}") from None


def _directory_field(task: str) -> str:
    return f"model.tasks.{task}.distillation.directory"


def _is_another(folder: str, before: str | None) -> str:
    """That the model in `folder` is not the one of the start, which was in `before` if that is known; and advice."""
    if folder == before:
        return f"{folder} has changed since this run started with it; restore it"
    known = f", {before}" if before is not None else ""
    return f"{folder} is not the model with which this run started{known}; set the folder of that one"


def _describe(directory: str, folder: Path, lessons: Sequence[Lesson]) -> list[str]:
    """Who teaches what, and whether another checkpoint of the run was better by its watched metric."""
    tasks = [own if own == other else f"{own} (its task {other})" for own, other in lessons]
    better = better_checkpoint(Path(directory), folder, f"name its folder in {_directory_field(lessons[0].task)}")
    return [f"teacher of {', '.join(tasks)}: {folder}", *([better] if better is not None else [])]


def _encoder(config: RecapConfig, assets: Assets) -> RowEncoder:
    return RowEncoder.for_job(config, assets, JobMode.INFERENCE)


def _check_lesson(lesson: Lesson, task: TaskConfig, teacher: RecapConfig, directory: str) -> None:
    """Raise ConfigError unless the teacher has the task, and predicts what this one does."""
    path, name = f"model.tasks.{lesson.task}.distillation", lesson.of_teacher
    if name not in teacher.tasks:
        text = f"{directory} has no task {name!r}. {suggest(name, teacher.tasks)}"
        raise ConfigError(f"{path}.task: {text} Choose the one to learn from")
    own, other = task.objective, teacher.model.tasks[name].objective
    if own.kind != other.kind:
        text = f"{name!r} of {directory} is {other.kind}, and {lesson.task!r} is {own.kind}"
        raise ConfigError(f"{path}: {text}; learn from a task of the same kind")
    if isinstance(own, RegressionConfig) and isinstance(other, RegressionConfig) and own.transform != other.transform:
        text = f"{name!r} of {directory} has transform {other.transform}, and {lesson.task!r} {own.transform}"
        raise ConfigError(f"{path}: {text}; learn from a task with the same transform")
