"""`recap train`: train, or go on training, from one configuration file."""

from pathlib import Path
from typing import Annotated

import typer

from recap.cli.options import ConfigFile, Overrides, SetFiles

_PROFILE_STEPS = 20


def train(
    config: ConfigFile,
    overrides: Overrides = None,
    set_files: SetFiles = None,
    accept_changed_data: Annotated[
        bool,
        typer.Option("--accept-changed-data", help="Resume though files are not those that the run was reading."),
    ] = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Measure where the time of some steps goes, and write a trace of them.")
    ] = False,
    profile_steps: Annotated[
        int | None,
        typer.Option(min=1, help="Profile so many steps.", show_default=f"{_PROFILE_STEPS} with --profile"),
    ] = None,
) -> None:
    """Train a ranker; run the same command again to resume."""
    import shlex

    from recap.config.file.load import load_config

    loaded = load_config(config, overrides or [], set_files or [])  # before torch: mistakes answer at once

    from recap.cli.console import Console
    from recap.distributed import ranks_from_environment
    from recap.runs import Run, find_model_directory
    from recap.training.trainer import train as run

    console = Console()
    steps = profile_steps or (_PROFILE_STEPS if profile else 0)
    done = run(loaded, console, accept_changed_data=accept_changed_data, profile_steps=steps)
    if not ranks_from_environment().is_first:
        return
    if done:
        folder = Path(loaded.training.save_dir)
        best = Run(folder).best
        console.ended(find_model_directory(folder), best)
        after = "evaluate {}{}" if loaded.validation_data else "predict {} INPUT… --output DIR{}"
        step = " --step best" if best is not None else ""
        console.say(f"next: recap {after.format(shlex.quote(loaded.training.save_dir), step)}")
    else:
        console.say(f"{loaded.training.save_dir} is already finished; nothing to do")
        longer = "training.num_train_steps" + (" or train_data.num_epochs" if loaded.train_data.num_epochs else "")
        longer += " or training.watch.stop_after" if loaded.training.watch else ""
        console.say(f"raise {longer} to go on, or choose another training.save_dir")
