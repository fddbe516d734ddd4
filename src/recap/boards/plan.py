"""A board file → the runs of the board, all checked before the first one starts."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from recap.config.base import KeyPath
from recap.config.evaluation.board import BoardConfig, CommandConfig, RivalConfig, folder_of
from recap.config.evaluation.metrics import SPECS
from recap.config.file.layers import read_mapping
from recap.config.file.load import load_config
from recap.config.file.node import Node
from recap.config.file.validate import located, validate
from recap.config.recap import RecapConfig
from recap.data.formats.files import find_files
from recap.errors import ConfigError, DataError, Problem
from recap.text import suggest


@dataclass(frozen=True)
class Job:
    """One run of a board: a row with a seed."""

    row: str
    seed: int
    config: RecapConfig
    """With the seed, and with the folder of the run as `training.save_dir`."""
    rival: RivalConfig | None
    record: Path
    """The file of its record; the name of its evaluation begins in the same way."""

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        return Path(self.config.training.save_dir)

    @property
    def is_finished(self) -> bool:
        """Whether it has a record, and its folder was not deleted."""
        return self.record.exists() and self.folder.exists()

    @property
    def name(self) -> str:
        """The row and the seed, for messages."""
        return f"{self.row}, seed {self.seed}"


@dataclass(frozen=True)
class Plan:
    """A board and its runs."""

    file: Path
    config: BoardConfig
    jobs: list[Job]

    @property
    def runs(self) -> Path:
        """The folder of all runs."""
        return Path(self.config.runs)


def load_plan(file: Path, *, run_commands: bool = False, find_data: bool = True) -> Plan:
    """The runs of a board file.

    `run_commands`: whether rivals that are programs may run. `find_data`: whether the data of unfinished runs must be
    there. Raises ConfigError, which lists every problem with its line, for a board or a configuration that cannot be
    used.
    """
    problems: list[Problem] = []
    root = read_mapping(str(file), problems, BoardConfig)
    board = validate(BoardConfig, root, problems)
    jobs = [_job(board, file, root, name, seed) for name in board.rows for seed in board.seeds]
    one_of_each_row = jobs[:: len(board.seeds)]
    mistakes = [problem for job in one_of_each_row for problem in _problems(board, job)]
    if find_data and not mistakes:
        mistakes += _missing_data(board, jobs)
    if not run_commands:
        text = "is a program, which runs with all your rights; if you trust this board, add --run-commands"
        mistakes += [
            (("rows", name, "rival", "command"), text)
            for name, row in board.rows.items()
            if isinstance(row.rival, CommandConfig)
        ]
    if mistakes:
        raise ConfigError(located(root, mistakes))
    return Plan(file, board, jobs)


def _job(board: BoardConfig, file: Path, root: Node, name: str, seed: int) -> Job:
    row, runs, run = board.rows[name], Path(board.runs), f"{folder_of(name)}-{seed}"
    overrides = [*row.overrides, f"training.seed={seed}", f"training.save_dir={json.dumps(str(runs / run))}"]
    try:
        config = load_config(file.parent / row.config, overrides, [str(file.parent / part) for part in row.set_files])
    except ConfigError as error:
        text = "its configuration cannot be used:"
        raise ConfigError([*located(root, [(("rows", name), text)]), *error.problems]) from None
    return Job(name, seed, config, row.rival, runs / "records" / f"{run}.json")


def _problems(board: BoardConfig, job: Job) -> Iterator[tuple[KeyPath, str]]:
    """What the board asks of the configuration of a row, and it does not have."""
    config, path = job.config, ("rows", job.row)
    if board.split not in config.validation_data:
        yield path, f"unknown split {board.split!r}. {suggest(board.split, list(config.validation_data))}"
        return
    evaluated = config.evaluated_tasks(board.split)
    for task in board.tasks:
        if task not in evaluated:
            yield path, f"unknown task {task!r}. {suggest(task, evaluated)}"
            continue
        kind = "regression" if task in config.regressions else "binary"
        for metric in board.metrics:
            if kind not in SPECS[metric].of:
                yield path, f"{task} is a {kind} task, which has no {metric}"
    for metric in board.metrics:
        if SPECS[metric].needs == "lists" and config.lists is None:
            yield path, f"{metric} needs lists; set features.user or features.request"
    if job.rival is None and board.best and config.training.watch is None:
        yield path, "best needs a watched metric; add training.watch, or remove best from the board"
    columns = getattr(job.rival, "columns", None) or ()
    known = _readable(config)
    for index, column in enumerate(columns):
        if column not in known:
            yield (*path, "rival", "columns", index), f"unknown feature {column!r}. {suggest(column, known)}"


def _missing_data(board: BoardConfig, jobs: list[Job]) -> Iterator[tuple[KeyPath, str]]:
    """The globs of rows with unfinished runs that match no file; each once, at its first row."""
    looked: set[str] = set()
    for job in jobs:
        sets = {"train_data": job.config.train_data, board.split: job.config.validation_data[board.split]}
        for name, data in () if job.is_finished else sets.items():
            inputs = data.source.inputs
            if repr(inputs) not in looked:
                looked.add(repr(inputs))
                try:
                    find_files(inputs)
                except DataError as error:
                    yield ("rows", job.row), f"{name}: {error}"


def _readable(config: RecapConfig) -> list[str]:
    """The features that trees can read: all but histories."""
    features = config.features
    named = [column.name for column in (*features.continuous, *features.binary)]
    return [*named, *features.discrete, *features.vectors]
