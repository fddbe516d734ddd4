"""`recap train`: train, or resume training, from one configuration file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recap.cli.options import ConfigFile, Overrides, SetFiles
from recap.errors import Interrupted
from recap.reporting import say_to_stderr
from recap.signals import Terminated, raise_lost_signal

if TYPE_CHECKING:
    from recap.cli.terminal.console import Console
    from recap.config.recap import RecapConfig

_PROFILE_STEPS = 20
"""Default number of steps to profile."""


def train(
    config: ConfigFile,
    overrides: Overrides = None,
    set_files: SetFiles = None,
    accept_changed_data: Annotated[
        bool,
        typer.Option("--accept-changed-data", help="Resume even if the data files changed since the run started."),
    ] = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Measure where the time of a step goes, and write a trace.")
    ] = False,
    profile_steps: Annotated[
        int | None,
        typer.Option(min=1, help="Number of steps to profile.", show_default=f"{_PROFILE_STEPS} with --profile"),
    ] = None,
) -> None:
    """Train a ranker, or resume training it.

    Run the same command again to resume.
    """
    from recap.cli.terminal.messages import print_warnings
    from recap.config.file.load import resolve

    # Before torch is imported, so that mistakes answer at once.
    resolved = resolve(config, overrides or [], set_files or [])
    loaded = resolved.config

    with _nothing_lost(loaded):
        from recap.rendezvous import ranks_from_environment

        is_first = ranks_from_environment().is_first
        if is_first:
            say_to_stderr("loading PyTorch and listing the data files …")

        from recap.cli.terminal.console import Console
        from recap.native.allocator import tune_process
        from recap.training.trainer import train as run

        console = Console()
        tune_process()
    steps = profile_steps or (_PROFILE_STEPS if profile else 0)
    if is_first:
        print_warnings(resolved.warnings)
    result = run(loaded, console, accept_changed_data=accept_changed_data, profile_steps=steps)
    if is_first:
        if result.trained:
            _show_result(loaded, console)
        else:
            console.say("to continue, raise the limit it reached; to start a new run, choose another training.save_dir")


@contextmanager
def _nothing_lost(config: "RecapConfig") -> Iterator[None]:
    """For the start of the program: a signal raises Interrupted."""
    try:
        yield
        raise_lost_signal()
    except Terminated as stop:
        from recap.runs import Run

        step = max(Run(Path(config.training.save_dir)).checkpoints, default=0)
        raise Interrupted(stop.number, step, done=False) from None


def _show_result(config: "RecapConfig", console: "Console") -> None:
    """Summarise the run, and suggest the next command."""
    import shlex

    from recap.model.directory import is_in_shards
    from recap.runs import Run

    run = Run(Path(config.training.save_dir))
    best = run.best
    console.ended(run.checkpoint(), best)
    folder, step = shlex.quote(config.training.save_dir), " --step best" if best is not None else ""
    if is_in_shards(best or run.checkpoint()):
        console.next(f"recap model consolidate {shlex.quote(str(best or run.checkpoint()))} --output DIR")
    elif config.validation_data and config.training.eval_log_every_n is None:  # else the last step was evaluated
        console.next(f"recap evaluate {folder}{step}")
    else:
        console.next(f"recap predict {folder} INPUT… --output DIR{step}")
