"""`recap board`: configurations and rivals, each with several seeds, in one table."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from recap.errors import RunError
from recap.text import plural


def board(
    file: Annotated[
        Path, typer.Argument(metavar="BOARD", help="Board file: rows, seeds, tasks and metrics.", show_default=False)
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of board.md, board.json and board.png; default: the folder of the runs.",
            show_default=False,
        ),
    ] = None,
    run_commands: Annotated[
        bool, typer.Option("--run-commands", help="Run the programs that the board names as rivals.")
    ] = False,
) -> None:
    """Train and evaluate every row of a board with every seed, and write one table of all.

    Finished runs are not trained again, and a run that fails does not stop the others: run the command again to
    continue. The exit code is 1 if a run failed.
    """
    from recap.boards.plan import load_plan

    plan = load_plan(file, run_commands=run_commands)

    from recap.boards.chart import CHART
    from recap.boards.run import CONTENT, PAGE, run_board
    from recap.cli.terminal.console import Console
    from recap.native.allocator import tune_process

    console, folder = Console(), plan.runs if output is None else output
    tune_process()
    results = run_board(plan, folder, console, shlex.join(["recap", *sys.argv[1:]]))
    print((folder / PAGE).read_text(encoding="utf-8"))
    files = [str(folder / name) for name in (PAGE, CONTENT, CHART) if (folder / name).exists()]
    console.say(f"written: {', '.join(files)}")
    if CHART not in {Path(name).name for name in files} and results.planned > results.failed:
        console.say("no chart, because vl-convert is not installed: pip install 'recap-ranker[report]'")
    if results.failed:
        lines = "\n".join(f"  {name}: {reason}" for name, reason in results.failures.items())
        raise RunError(f"{file}: {plural(results.failed, 'run')} of {results.planned} failed:\n{lines}")
