"""`recap data simulate`."""

from pathlib import Path
from typing import Annotated

import typer

from recap.cli.options import Overwrite


def simulate(
    output: Annotated[Path, typer.Option(help="Folder to write the feed to.", show_default=False)],
    rows: Annotated[int, typer.Option(help="Training rows.")] = 500_000,
    validation_rows: Annotated[int, typer.Option(help="Validation rows, later in time.")] = 100_000,
    seed: Annotated[int, typer.Option(min=0, help="Seed; the same seed gives the same feed.")] = 0,
    embedding_size: Annotated[int, typer.Option(help="Width of the user and author vectors.")] = 32,
    downsample: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TASK=RATE",
            help="Keep each training negative of TASK with probability RATE. May be repeated.",
            show_default=False,
        ),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Simulate a feed whose true probabilities are known.

    Writes impressions with labels as Parquet, and their true probabilities beside them.
    """
    from recap.cli.terminal.console import Console
    from recap.data.simulate import simulate as run

    console = Console()
    with console.counting("rows simulated") as count:
        made = run(
            output,
            rows=rows,
            validation_rows=validation_rows,
            seed=seed,
            embedding_size=embedding_size,
            downsample=dict(map(_parse_rate, downsample or [])),
            overwrite=overwrite,
            after_rows=count,
        )
    console.say(f"written: {output}" if made else f"{output} already holds this feed; nothing to do")


def _parse_rate(text: str) -> tuple[str, float]:
    from recap.errors import InputError

    task, _, rate = text.partition("=")
    try:
        return task, float(rate)
    except ValueError:
        raise InputError(f"--downsample: expected TASK=RATE, such as is_reported=0.1, found {text!r}") from None
