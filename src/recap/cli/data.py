"""`recap data`: make data."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Make data.")


@app.callback()
def _group() -> None:
    pass


@app.command()
def simulate(
    output: Annotated[Path, typer.Option(help="Folder for the feed.", show_default=False)],
    rows: Annotated[int, typer.Option(help="Rows to train on.")] = 500_000,
    validation_rows: Annotated[int, typer.Option(help="Rows to validate on, later in time.")] = 100_000,
    seed: Annotated[int, typer.Option(min=0, help="Fixes every value.")] = 0,
    embedding_size: Annotated[int, typer.Option(help="Width of the user's and the author's vector.")] = 32,
    downsample: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TASK=RATE",
            help="Keep each negative of TASK in train with probability RATE; may be given for several tasks.",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a feed that is already there.")] = False,
) -> None:
    """Simulate a feed: impressions with labels in Parquet, and their true probabilities beside them."""
    from recap.cli.console import Console
    from recap.data.simulate import simulate as run

    console = Console()
    with console.counting("rows simulated") as count:
        made = run(
            output,
            rows=rows,
            validation_rows=validation_rows,
            seed=seed,
            embedding_size=embedding_size,
            downsample=dict(_rate(text) for text in downsample or []),
            overwrite=overwrite,
            progress=count,
        )
    console.say(f"written: {output}" if made else f"{output} holds this very feed already; nothing to do")


def _rate(text: str) -> tuple[str, float]:
    from recap.errors import InputError

    task, _, rate = text.partition("=")
    try:
        return task, float(rate)
    except ValueError:
        raise InputError(f"--downsample: expected TASK=RATE, such as is_reported=0.1, found {text!r}") from None
