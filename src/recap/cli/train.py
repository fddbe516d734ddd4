"""`recap train`: train, or go on training, from one configuration file."""

from typing import Annotated

import typer

from recap.cli.options import ConfigFile, Overrides, SetFiles


def train(
    config: ConfigFile,
    overrides: Overrides = None,
    set_files: SetFiles = None,
    accept_changed_data: Annotated[
        bool,
        typer.Option("--accept-changed-data", help="Resume though files are not those that the run was reading."),
    ] = False,
) -> None:
    """Train a ranker; run the same command again to resume."""
    from recap.config.load import load_config

    loaded = load_config(config, overrides or [], set_files or [])  # before torch: mistakes answer at once

    from recap.cli.console import Console
    from recap.ranks import ranks_of_environment
    from recap.training.trainer import train as run

    console = Console()
    done = run(loaded, console, accept_changed_data=accept_changed_data)
    if not ranks_of_environment().is_first:
        return
    if done:
        console.say(f"finished: {loaded.training.save_dir}")
        after = "evaluate {}" if loaded.validation_data else "predict {} INPUT… --output DIR"
        console.say(f"next: recap {after.format(loaded.training.save_dir)}")
    else:
        console.say(f"{loaded.training.save_dir} is already finished; nothing to do")
        longer = "training.num_train_steps" + (" or train_data.num_epochs" if loaded.train_data.num_epochs else "")
        longer += " or training.watch.stop_after" if loaded.training.watch else ""
        console.say(f"raise {longer} to go on, or choose another training.save_dir")
