"""`recap evaluate`: the metrics of a trained model on the validation sets."""

from pathlib import Path
from typing import Annotated

import typer

from recap.cli.options import Overrides, SetFiles, StepOption, step_of


def evaluate(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="CONFIG_OR_RUN", help="A configuration file, or the folder of a run.", show_default=False
        ),
    ],
    overrides: Overrides = None,
    split: Annotated[str | None, typer.Option(help="One validation set; none given: all.", show_default=False)] = None,
    step: StepOption = None,
    set_files: SetFiles = None,
) -> None:
    """Evaluate a run on its validation sets: a table, and evaluation.json in the run."""
    from recap.config.load import load_config

    run = source if source.is_dir() else None
    file = source / "config.yaml" if run else source
    config = load_config(file, overrides or [], set_files or [], stored=run is not None)

    from recap.cli.console import Console
    from recap.evaluation.job import evaluate_run

    console = Console()
    folder = run or Path(config.training.save_dir)
    report = evaluate_run(config, folder, split=split, step=step_of(step), say=console.say)
    for name, evaluation in report.splits.items():
        console.table(f"{name}, {report.model.name}", evaluation)
        for stratum, found in report.strata[name].items():
            console.stratum(stratum, found)
        if name in report.gates:
            console.gates(f"gates, {name}", report.gates[name])
        if name in report.conflicts:
            console.conflicts(f"{name}, cosine of the tasks' gradients", report.conflicts[name])
    console.say(f"written: {report.file}")
