"""`recap report`: a page that shows how good a model is."""

from itertools import groupby
from pathlib import Path
from typing import Annotated

import typer

from recap.cli.options import parse_step, say_better_checkpoint
from recap.errors import InputError, RunError
from recap.evaluation.checks.finding import Severity

ReportStep = Annotated[
    str | None,
    typer.Option(
        "--step",
        metavar="STEP",
        help="Step of the checkpoint, of RUN alone, or 'best' where training.watch is set, of the baseline too; "
        "default: the latest.",
        show_default=False,
    ),
]


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
    step: ReportStep = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder to write; default: report in the run.", show_default=False),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Leave out feature importance, drift and checks, which score more rows.")
    ] = False,
    fail_on: Annotated[
        Severity | None,
        typer.Option(help="Exit with 1 if a check of this severity or worse failed.", show_default=False),
    ] = None,
) -> None:
    """Write a report of a run: one HTML page that opens offline.

    Evaluates the checkpoint, and the baseline on the same rows. Writes index.html, the same numbers as report.json, and
    model_card.md.
    """
    if quick and fail_on is not None:
        raise InputError("--fail-on: --quick leaves the checks out; leave out one of the two")

    from recap.cli.terminal.console import Console
    from recap.evaluation.checks.run import failing
    from recap.evaluation.report.build import report as write_report
    from recap.native.allocator import tune_process
    from recap.text import plural

    console = Console()
    chosen = parse_step(step)
    tune_process()
    say_better_checkpoint(run, chosen, console.say)
    if baseline is not None:
        say_better_checkpoint(baseline, chosen if chosen == "best" else None, console.say)
    file, findings = write_report(run, baseline, split, chosen, output, console.say, quick=quick)
    for code, items in groupby(findings, key=lambda item: item.code):
        group = list(items)
        for item in group:
            console.say(f"{item.severity} {code}: {item.text}")
        console.say(f"  {group[0].advice}")
    console.say(f"written: {file}")
    if fail_on is not None and (failed := failing(findings, fail_on)):
        codes = ", ".join(dict.fromkeys(item.code for item in failed))
        raise RunError(f"--fail-on {fail_on}: {plural(len(failed), 'finding')} of checks: {codes}")
