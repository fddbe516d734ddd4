"""`recap evaluate`: metrics of a trained model on the validation sets."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recap.cli.options import Overrides, SetFiles, StepOption, config_file, parse_step
from recap.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from recap.config.recap import RecapConfig
    from recap.runs import Step


def evaluate(
    source: Annotated[
        Path,
        typer.Argument(metavar="CONFIG_OR_RUN", help="Configuration file, or folder of a run.", show_default=False),
    ],
    overrides: Overrides = None,
    split: Annotated[
        str | None, typer.Option(help="Name of a validation set; default: all.", show_default=False)
    ] = None,
    step: StepOption = None,
    follow: Annotated[
        bool,
        typer.Option("--follow", help="Evaluate every checkpoint of a run as it appears, until training has finished."),
    ] = False,
    timeout: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="With --follow: stop after this many seconds without a new checkpoint; default: no limit.",
            show_default=False,
        ),
    ] = None,
    set_files: SetFiles = None,
) -> None:
    """Evaluate a run on its validation sets.

    Prints a table, and writes all metrics to evaluation.json in the run.
    """
    from recap.config.file.load import load_config

    if timeout is not None and not follow:
        raise InputError("--timeout: requires --follow; add --follow, or leave out --timeout")
    if step is not None and follow:
        raise InputError("--step: --follow evaluates every checkpoint; leave out one of the two")
    # A run to follow may not exist yet.
    run = source if source.is_dir() or (follow and source.suffix not in (".yaml", ".yml")) else None

    def load() -> "RecapConfig":
        return load_config(config_file(source), overrides or [], set_files or [], stored=run is not None)

    if follow:
        _follow(load, run or Path(load().training.save_dir), split, timeout)
    else:
        config = load()
        _evaluate(config, run or Path(config.training.save_dir), split, parse_step(step))


def _evaluate(config: "RecapConfig", run: Path, split: str | None, step: "Step | None") -> None:
    """Evaluate one checkpoint and print the results."""
    from recap.cli.console import Console
    from recap.evaluation.run import evaluate_run
    from recap.native.allocator import tune_process
    from recap.runs import Run

    console = Console()
    tune_process()
    report = evaluate_run(config, run, split=split, step=step, say=console.say)
    for name, result in report.splits.items():
        console.table(f"{name}, {report.model}", result.metrics)
        for stratum, metrics in result.strata.items():
            console.stratum(stratum, metrics)
        if result.gates:
            console.gates(f"gates, {name}", result.gates)
        if result.conflicts:
            console.conflicts(f"{name}, cosine similarity of the tasks' gradients", result.conflicts)
    console.say(f"written: {Run(run).evaluation_file}")


def _follow(load: "Callable[[], RecapConfig]", run: Path, split: str | None, timeout: float | None) -> None:
    """Evaluate each checkpoint as it appears."""
    from recap.cli.console import Console
    from recap.evaluation.follow import follow
    from recap.native.allocator import tune_process
    from recap.tracking.open import open_evaluation_tracker

    console = Console()
    tune_process()
    file = follow(load, run, console, split, timeout, lambda run, step: open_evaluation_tracker(run, step, console.say))
    console.say(f"finished: {run}; written: {file}")
