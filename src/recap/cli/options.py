"""The arguments that commands share."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from recap.errors import InputError

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="The configuration file.", show_default=False)]

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[SECTION.KEY=VALUE]...",
        help="Values that replace those of the file, in YAML, such as training.num_train_steps=100.",
        show_default=False,
    ),
]


def step_of(text: str | None) -> int | Literal["best"] | None:
    """What `--step` means. Raises InputError."""
    if text is None:
        return None
    if text == "best":
        return "best"
    if not text.isascii() or not text.isdigit():
        raise InputError(f"--step: {text!r} is no step; give a whole number, or best")
    return int(text)


StepOption = Annotated[
    str | None,
    typer.Option(
        "--step",
        metavar="STEP",
        help="The checkpoint of this step, or 'best' where training.watch is set; none given: the latest.",
        show_default=False,
    ),
]

SetFiles = Annotated[
    list[str] | None,
    typer.Option(
        "--set-file",
        metavar="FILE",
        help="A YAML file to lay over the configuration, or section.key=FILE for the value of one key; "
        "overrides are laid over it.",
        show_default=False,
    ),
]

SchemaFile = Annotated[
    str | None,
    typer.Option("--schema", metavar="FILE", help="JSON that lists the columns of TFRecord files.", show_default=False),
]
