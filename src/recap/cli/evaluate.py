"""`recap evaluate`: the metrics of a trained model on the validation sets."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recap.cli.options import Overrides, SetFiles, StepOption, step_of
from recap.errors import InputError

if TYPE_CHECKING:
    from recap.config.recap import RecapConfig


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
    follow: Annotated[
        bool,
        typer.Option(
            "--follow", help="Wait for checkpoints of a run that is training, and evaluate each, until it is finished."
        ),
    ] = False,
    timeout: Annotated[
        float | None,
        typer.Option(
            min=0, help="With --follow: seconds without a new checkpoint; none given: no limit.", show_default=False
        ),
    ] = None,
    set_files: SetFiles = None,
) -> None:
    """Evaluate a run on its validation sets: a table, and evaluation.json in the run."""
    from recap.config.file.load import load_config
    from recap.runs import Run

    if timeout is not None and not follow:
        raise InputError("--timeout: is for --follow; add it, or leave the timeout out")
    if step is not None and follow:
        raise InputError("--step: --follow evaluates each checkpoint as it appears; leave one of the two out")
    # A run to follow may not be there yet.
    run = source if source.is_dir() or (follow and source.suffix not in (".yaml", ".yml")) else None

    def load() -> "RecapConfig":
        file = Run(source).config_file if run else source
        return load_config(file, overrides or [], set_files or [], stored=run is not None)

    if follow:
        folder = run or Path(load().training.save_dir)

        from recap.cli.console import Console
        from recap.evaluation.follow import follow as follow_run

        console = Console()
        console.say(f"finished: {folder}; written: {follow_run(load, folder, console, split, timeout)}")
        return
    config = load()

    from recap.cli.console import Console
    from recap.evaluation.run import evaluate_run

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
