"""`recap config`: work with a configuration without running it."""

from pathlib import Path
from typing import Annotated

import typer

from recap.config.load import load_config

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Work with a configuration without running it.")


@app.callback()
def _group() -> None:
    pass


@app.command()
def check(
    config: Annotated[Path, typer.Argument(help="The configuration file.", show_default=False)],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[SECTION.KEY=VALUE]...", show_default=False)] = None,
) -> None:
    """Read a configuration and report every problem in it, with its place."""
    checked = load_config(config, overrides or [])
    inputs = len(checked.features.inputs)
    validation = ", ".join(checked.validation_data) or "none"
    print(f"{config}: good. {inputs} feature columns, tasks: {', '.join(checked.tasks)}; validation sets: {validation}")
