"""`recap report`: a page that shows how good a model is."""

from pathlib import Path
from typing import Annotated

import typer

from recap.cli.options import StepOption, parse_step


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run, checkpoint or model directory.", show_default=False)],
    baseline: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Run or model directory to compare with, evaluated on the same rows.",
            show_default=False,
        ),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Name of a validation set; default: the first.", show_default=False)
    ] = None,
    step: StepOption = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder to write; default: report in the run.", show_default=False),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Leave out feature importance, drift and checks, which score more rows.")
    ] = False,
) -> None:
    """Write a report of a run: one HTML page that opens offline.

    Evaluates the checkpoint, and the baseline on the same rows. Writes index.html, the same numbers as report.json, and
    model_card.md.
    """
    from recap.cli.console import Console
    from recap.evaluation.report.build import report as write_report
    from recap.native.allocator import tune_process
    from recap.runs import better_checkpoint, find_model_directory

    console = Console()
    chosen = parse_step(step)
    tune_process()
    if chosen is None and (remark := better_checkpoint(run, find_model_directory(run))) is not None:
        console.say(remark)
    console.say(f"written: {write_report(run, baseline, split, chosen, output, console.say, quick=quick)}")
