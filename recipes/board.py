"""A board: a Markdown table that compares configurations, each trained with several seeds.

python recipes/board.py BOARD.yaml

Finished runs are not trained again: run the command again to continue a board, or after adding a row.
"""

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import mean
from typing import Annotated

from pydantic import Field, ValidationError

from recap.config.base import BaseConfig, Name, NonNegativeInt
from recap.config.evaluation.metrics import SPECS, WatchedMetric
from recap.config.file.load import load_config
from recap.config.file.node import plain
from recap.config.file.yaml import parse
from recap.config.recap import RecapConfig
from recap.errors import ConfigError, InputError, Problem, RecapError
from recap.evaluation.result import EvaluationReport
from recap.evaluation.run import evaluate_run
from recap.reporting import Reporter
from recap.runs import BEST, Run
from recap.storage import replace_text
from recap.text import mean_deviation, suggest
from recap.training.trainer import train


class Row(BaseConfig):
    """One configuration of the board."""

    config: Name
    """Configuration file, relative to the board file."""
    set_files: list[Name] = []
    """Files merged over it, as with --set-file, relative to the board file."""
    overrides: list[Name] = []
    """`section.key=value`, as on the command line."""


class Board(BaseConfig):
    """The content of a board file."""

    runs: Name
    """Folder of the runs, relative to the working directory; each run is named ROW-SEED."""
    seeds: Annotated[list[NonNegativeInt], Field(min_length=1)] = [0, 1, 2]
    """The values of training.seed."""
    split: Name = "validation"
    """The validation set to show."""
    metric: WatchedMetric = "auc"
    """The metric to show."""
    tasks: Annotated[list[Name], Field(min_length=1)]
    """The tasks to show, and their mean."""
    best: bool = False
    """Show the best checkpoint of a watched metric instead of the latest."""
    rows: Annotated[dict[Name, Row], Field(min_length=1)]
    """The configurations, by their names in the table."""
    floors: dict[Name, list[float]] = {}
    """Known values to compare with: a name, and a value for each task."""


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
        lines = [f"{file}: {'.'.join(map(str, detail['loc']))}: {detail['msg']}" for detail in error.errors()]
        raise ConfigError("\n".join(lines)) from None
    folders: dict[str, str] = {}
    for name in board.rows:
        other = folders.setdefault(_folder(name), name)
        if other != name:
            raise ConfigError(
                f"{file}: rows {other!r} and {name!r} would share the folder {_folder(name)!r}; rename one"
            )
    for name, values in board.floors.items():
        if len(values) != len(board.tasks):
            raise ConfigError(
                f"{file}: floors.{name}: expected {len(board.tasks)} values, one for each task; found {len(values)}"
            )
    return board


def make_board(file: Path, reporter: Reporter) -> str:
    """Train and evaluate the unfinished runs of a board; return its table, which is also written to `board.md`."""
    board = read_board(file)
    runs = Path(board.runs)
    plan = [(name, seed, _config(board, file.parent, name, seed)) for name in board.rows for seed in board.seeds]
    results: dict[str, list[list[float]]] = {name: [] for name in board.rows}
    text = table(board, results)
    for name, seed, config in plan:
        reporter.say(f"{name}, seed {seed}")
        train(config, reporter)
        results[name].append(_values(board, config, reporter.say))
        text = table(board, results)
        replace_text(runs / "board.md", text + "\n")
    return text


def _folder(name: str) -> str:
    """The folder of the runs of a row, without their seeds."""
    return name.replace(" ", "_").replace("/", "_")


def _config(board: Board, folder: Path, name: str, seed: int) -> RecapConfig:
    """The configuration of one run. All are checked before the first is trained."""
    row = board.rows[name]
    run = Path(board.runs) / f"{_folder(name)}-{seed}"
    overrides = [*row.overrides, f"training.seed={seed}", f"training.save_dir={json.dumps(str(run))}"]
    config = load_config(folder / row.config, overrides, [str(folder / part) for part in row.set_files])
    missing = [task for task in board.tasks if task not in config.tasks]
    if missing:
        raise ConfigError(f"rows.{name}: unknown task {missing[0]!r}. {suggest(missing[0], config.tasks)}")
    if board.split not in config.validation_data:
        raise ConfigError(
            f"rows.{name}: unknown split {board.split!r}. {suggest(board.split, list(config.validation_data))}"
        )
    if board.best and config.training.watch is None:
        raise ConfigError(
            f"rows.{name}: best needs a watched metric; add training.watch, or remove best from the board"
        )
    return config


def _values(board: Board, config: RecapConfig, say: Callable[[str], None]) -> list[float]:
    """The metric of each shown task; evaluates the checkpoint unless its results are written already."""
    run = Run(Path(config.training.save_dir))
    folder = run.checkpoint(BEST if board.best else None)
    report = _written(run)
    if report is None or board.split not in report.splits or report.model_of(board.split) != folder.name:
        report = evaluate_run(config, run.path, board.split, int(folder.name.removeprefix("step_")), say)
    metrics = report.splits[board.split].metrics
    return [metrics[task][board.metric] for task in board.tasks]


def _written(run: Run) -> EvaluationReport | None:
    with suppress(InputError):
        return EvaluationReport.read(run)
    return None


def table(board: Board, results: dict[str, list[list[float]]]) -> str:
    """The table: mean ± sample deviation over seeds for each task and for their mean, one row per configuration."""
    names = [*board.tasks, "mean"] if len(board.tasks) > 1 else board.tasks
    lines = [f"| {SPECS[board.metric].title} | seeds | {' | '.join(names)} |", "|---|" + "---|" * (len(names) + 1)]
    for name, values in board.floors.items():
        lines.append(_line(name, "", [f"{value:.4f}" for value in _with_mean(values)]))
    for name, runs in results.items():
        if runs:
            columns = zip(*map(_with_mean, runs), strict=True)
            cells = [mean_deviation(values, 4) for values in columns]
            lines.append(_line(name, str(len(runs)), cells))
    return "\n".join(lines)


def _with_mean(values: Sequence[float]) -> list[float]:
    return [*values, mean(values)] if len(values) > 1 else list(values)


def _line(name: str, seeds: str, cells: Sequence[str]) -> str:
    return f"| {name} | {seeds} | {' | '.join(cells)} |"


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    from recap.cli.terminal.console import Console
    from recap.native.allocator import tune_process

    if len(arguments) != 1:
        print("usage: python recipes/board.py BOARD.yaml", file=sys.stderr)
        return 2
    tune_process()
    try:
        print(make_board(Path(arguments[0]), Console()))
    except RecapError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
