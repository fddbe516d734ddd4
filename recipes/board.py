"""A board: configurations, each trained with several seeds, side by side in one Markdown table.

python recipes/board.py BOARD.yaml

Runs that are finished are not trained again, so a board that was stopped, or got another row, goes on where it is.
"""

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import mean, pstdev
from typing import Annotated

from pydantic import Field, ValidationError

from recap.config.base import BaseConfig, Name, NonNegativeInt
from recap.config.file.load import load_config
from recap.config.file.node import plain
from recap.config.file.yaml import parse
from recap.config.metrics import SPECS, WatchedMetric
from recap.config.recap import RecapConfig
from recap.errors import ConfigError, InputError, Problem, RecapError
from recap.evaluation.result import EvaluationReport
from recap.evaluation.run import evaluate_run
from recap.reporting import Reporter
from recap.runs import BEST, Run
from recap.training.trainer import train


class Row(BaseConfig):
    """One configuration of the board."""

    config: Name
    """Its file, relative to the board's."""
    set_files: list[Name] = []
    """Parts to lay over it, as by --set-file, relative to the board's."""
    overrides: list[Name] = []
    """`section.key=value`, as on the command line."""


class Board(BaseConfig):
    """What a board file says."""

    runs: Name
    """The folder of the runs, relative to where the command is given; each is called ROW-SEED."""
    seeds: Annotated[list[NonNegativeInt], Field(min_length=1)] = [0, 1, 2]
    """The values of training.seed."""
    split: Name = "validation"
    """The validation set that is shown."""
    metric: WatchedMetric = "auc"
    """What is shown of each task."""
    tasks: Annotated[list[Name], Field(min_length=1)]
    """The tasks that are shown, and whose mean is."""
    best: bool = False
    """Whether the best checkpoint of a watched metric is shown, rather than the last."""
    rows: Annotated[dict[Name, Row], Field(min_length=1)]
    """The configurations, by what they are called in the table."""
    floors: dict[Name, list[float]] = {}
    """Lines of known values to compare with: what they are called, and a value a task."""


def read_board(file: Path) -> Board:
    """The board in `file`. Raises ConfigError."""
    problems: list[Problem] = []
    try:
        node = parse(file.read_text(encoding="utf-8"), str(file), problems)
        if problems or node is None:
            raise ConfigError(problems or f"{file}: is empty")
        board = Board.model_validate(plain(node))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror})") from None
    except ValidationError as error:
        lines = [f"{file}: {'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
        raise ConfigError("\n".join(lines)) from None
    for name, values in board.floors.items():
        if len(values) != len(board.tasks):
            raise ConfigError(f"{file}: floors.{name}: {len(board.tasks)} tasks need as many values")
    return board


def make_board(file: Path, reporter: Reporter) -> str:
    """Do what is left of the board in `file`, and give its table, which is written beside the runs too."""
    board = read_board(file)
    runs = Path(board.runs)
    plan = [(name, seed, _config(board, file.parent, name, seed)) for name in board.rows for seed in board.seeds]
    found: dict[str, list[list[float]]] = {name: [] for name in board.rows}
    text = table(board, found)
    for name, seed, config in plan:
        reporter.say(f"{name}, seed {seed}")
        train(config, reporter)
        found[name].append(_values(board, config, reporter.say))
        text = table(board, found)
        (runs / "board.md").write_text(text + "\n")
    return text


def _config(board: Board, folder: Path, name: str, seed: int) -> RecapConfig:
    """All are read before the first is trained, so that mistakes answer at once."""
    row = board.rows[name]
    run = Path(board.runs) / f"{name.replace(' ', '_').replace('/', '_')}-{seed}"
    overrides = [*row.overrides, f"training.seed={seed}", f"training.save_dir={json.dumps(str(run))}"]
    config = load_config(folder / row.config, overrides, [str(folder / part) for part in row.set_files])
    missing = [task for task in board.tasks if task not in config.tasks]
    if missing:
        raise ConfigError(f"rows.{name}: has no task {missing[0]!r}; its tasks are {', '.join(config.tasks)}")
    if board.split not in config.validation_data:
        raise ConfigError(f"rows.{name}: has no validation set {board.split!r}")
    return config


def _values(board: Board, config: RecapConfig, say: Callable[[str], None]) -> list[float]:
    """The metric of each shown task, from evaluation.json where that is of this checkpoint."""
    run = Run(Path(config.training.save_dir))
    folder = run.checkpoint(BEST if board.best else None)
    report = _written(run)
    if report is None or report.model != folder.name or board.split not in report.splits:
        report = evaluate_run(config, run.path, board.split, int(folder.name.removeprefix("step_")), say)
    metrics = report.splits[board.split].metrics
    return [metrics[task][board.metric] for task in board.tasks]


def _written(run: Run) -> EvaluationReport | None:
    with suppress(InputError):
        return EvaluationReport.read(run)
    return None


def table(board: Board, found: dict[str, list[list[float]]]) -> str:
    """A row a configuration that has a run: mean ± standard deviation over seeds, of each task and of their mean."""
    names = [*board.tasks, "mean"] if len(board.tasks) > 1 else board.tasks
    lines = [f"| {SPECS[board.metric].title} | seeds | {' | '.join(names)} |", "|---|" + "---|" * (len(names) + 1)]
    for name, values in board.floors.items():
        lines.append(_line(name, "", [f"{value:.4f}" for value in _with_mean(values)]))
    for name, runs in found.items():
        if runs:
            columns = zip(*map(_with_mean, runs), strict=True)
            cells = [f"{mean(values):.4f} ± {pstdev(values):.4f}" for values in columns]
            lines.append(_line(name, str(len(runs)), cells))
    return "\n".join(lines)


def _with_mean(values: Sequence[float]) -> list[float]:
    return [*values, mean(values)] if len(values) > 1 else list(values)


def _line(name: str, seeds: str, cells: Sequence[str]) -> str:
    return f"| {name} | {seeds} | {' | '.join(cells)} |"


def main(arguments: Sequence[str]) -> int:
    """The command; its exit code."""
    from recap.cli.console import Console

    if len(arguments) != 1:
        print("usage: python recipes/board.py BOARD.yaml", file=sys.stderr)
        return 2
    try:
        print(make_board(Path(arguments[0]), Console()))
    except RecapError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
