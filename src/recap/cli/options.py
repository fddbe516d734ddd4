"""The arguments that commands share."""

from pathlib import Path
from typing import Annotated

import typer

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="The configuration file.", show_default=False)]

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[SECTION.KEY=VALUE]...",
        help="Values that replace those of the file, in YAML, such as training.num_train_steps=100.",
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
