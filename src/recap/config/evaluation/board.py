"""The file of `recap board`: rows to train with several seeds, and what their table shows."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from recap.config.base import BaseConfig, Check, Name, NonNegativeInt, PositiveInt, Problems, RootConfig
from recap.config.evaluation.metrics import WatchedMetric
from recap.text import suggest


class LightgbmConfig(BaseConfig):
    """Gradient-boosted trees (LightGBM: Ke et al., NIPS 2017), one model for each task of the board.

    They read the features, labels, weights and files of the row's `config`, without histories. Needs the extra `trees`.
    """

    kind: Literal["lightgbm"]
    trials: PositiveInt = 20
    """Settings to try for each task, once for all seeds; the first one is fixed, the others are drawn at random."""
    tuning_share: Annotated[float, Field(gt=0, le=0.5)] = 0.2
    """Share of the training rows on which settings are chosen: the last ones by `features.timestamp`, or without it
    those at the end of the files. The trees of the chosen setting are then fitted to all training rows."""
    max_rounds: PositiveInt = 1000
    """The largest number of trees of a task; fitting stops earlier where more of them do not help."""
    columns: Annotated[list[Name], Field(min_length=1)] | None = None
    """The features to read. Optional; default: all of `config` but histories."""


class CommandConfig(BaseConfig):
    """A program that trains and predicts by itself, and writes a Parquet file of predictions."""

    kind: Literal["command"]
    command: Annotated[list[Name], Field(min_length=1)]
    """The program and its arguments, such as `[python, rival.py]`, run in the working directory. It is given
    `--config`, `--split` and `--output` too."""


RivalConfig = Annotated[LightgbmConfig | CommandConfig, Field(discriminator="kind")]


_SET_BY_THE_BOARD = {"training.seed": "seeds", "training.save_dir": "runs"}
"""Key of a configuration → the field of a board that sets it for each run."""


class RowConfig(BaseConfig):
    """A configuration of the board, or another program that is given its data."""

    config: Name
    """Configuration file, relative to the board file."""
    set_files: list[Name] = []
    """Files merged over it, as with `--set-file`, relative to the board file."""
    overrides: list[Name] = []
    """`section.key=value`, as on the command line."""
    rival: RivalConfig | None = None
    """Who learns from the data of `config` instead of its model. Optional; default: its model."""

    def checks(self) -> tuple[Check, ...]:
        return (self._leaves_the_run_to_the_board,)

    def _leaves_the_run_to_the_board(self) -> Problems:
        for index, override in enumerate(self.overrides):
            key = override.partition("=")[0].strip()
            if key in _SET_BY_THE_BOARD:
                yield ("overrides", index), f"{key} is set by {_SET_BY_THE_BOARD[key]} of the board; remove it"


Floors = dict[Name, dict[Name, dict[Name, float]]]
"""Name → metric → task → value."""


class BoardConfig(RootConfig):
    """A board: every row is trained once for each seed, and evaluated on the same rows of data."""

    title: Name
    """The heading of its page."""
    runs: Name
    """Folder of the runs, relative to the working directory; each run is a folder ROW-SEED in it."""
    seeds: Annotated[list[NonNegativeInt], Field(min_length=1)] = [0, 1, 2]
    """The values of `training.seed`."""
    split: Name = "validation"
    """The validation set to evaluate."""
    metrics: Annotated[list[WatchedMetric], Field(min_length=1)] = ["auc"]
    """The metrics to show, one table each."""
    tasks: Annotated[list[Name], Field(min_length=1)]
    """The tasks to show."""
    mean_of: Annotated[list[Name], Field(min_length=1)] | None = None
    """The tasks of the column `mean`. Optional; default: all, if there are several."""
    best: bool = False
    """Evaluate the best checkpoint by `training.watch` instead of the latest."""
    baseline: Name | None = None
    """The row that all others are compared with. Optional; default: no differences."""
    rows: Annotated[dict[Name, RowConfig], Field(min_length=1)]
    """The rows by their names in the tables."""
    floors: Floors = {}
    """Known values to show above the rows: a name, then metric, task and value."""

    @property
    def averaged(self) -> list[str]:
        """The tasks of the column `mean`; empty without one."""
        if self.mean_of is not None:
            return self.mean_of
        return self.tasks if len(self.tasks) > 1 else []

    def checks(self) -> tuple[Check, ...]:
        return (
            self._names_once,
            self._folders_differ,
            self._baseline_is_a_row,
            self._mean_is_of_tasks,
            self._floors_are_shown,
            self._names_fit_tables,
        )

    def _names_once(self) -> Problems:
        for field in ("seeds", "metrics", "tasks", "mean_of"):
            listed = getattr(self, field) or []
            for index, value in enumerate(listed):
                if value in listed[:index]:
                    yield (field, index), f"{value!r} is listed twice; remove one"

    def _folders_differ(self) -> Problems:
        owners: dict[str, str] = {}
        for name in self.rows:
            owner = owners.setdefault(folder_of(name), name)
            if owner != name:
                yield ("rows", name), f"would share the folder {folder_of(name)!r} with {owner!r}; rename one"

    def _baseline_is_a_row(self) -> Problems:
        if self.baseline is not None and self.baseline not in self.rows:
            yield ("baseline",), f"unknown row {self.baseline!r}. {suggest(self.baseline, list(self.rows))}"

    def _mean_is_of_tasks(self) -> Problems:
        if "mean" in self.tasks:
            yield ("tasks", self.tasks.index("mean")), "'mean' is the column of means; a board cannot show this task"
        for index, task in enumerate(self.mean_of or []):
            if task not in self.tasks:
                yield ("mean_of", index), f"unknown task {task!r}. {suggest(task, self.tasks)}"

    def _floors_are_shown(self) -> Problems:
        for name, metrics in self.floors.items():
            if name in self.rows:
                yield ("floors", name), "is also a row; rename one"
            for metric, values in metrics.items():
                if metric not in self.metrics:
                    text = f"the board does not show {metric!r}. {suggest(metric, list(self.metrics))}"
                    yield ("floors", name, metric), text
                for task in values:
                    if task not in self.tasks:
                        text = f"unknown task {task!r}. {suggest(task, self.tasks)}"
                        yield ("floors", name, metric, task), text

    def _names_fit_tables(self) -> Problems:
        for path, name in self._names():
            if len(name) > 100 or "|" in name or not name.isprintable():
                yield path, "a name of a table has at most 100 characters, without | and line breaks"

    def _names(self) -> Iterator[tuple[tuple[str, ...], str]]:
        yield ("title",), self.title
        yield from (((field, name), name) for field in ("rows", "floors") for name in getattr(self, field))


def folder_of(row: str) -> str:
    """The name of the folder of a row's runs, without the seed."""
    return row.replace(" ", "_").replace("/", "_")
