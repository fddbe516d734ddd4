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
    output: Annotated[Path, typer.Option(help="Folder for the data set.", show_default=False)],
    rows: Annotated[int, typer.Option(min=1, help="Rows of the training split.")] = 500_000,
    seed: Annotated[int, typer.Option(min=0, help="Fixes every value.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a data set that is already there.")] = False,
) -> None:
    """Simulate a feed: impressions with labels in Parquet, and their true probabilities beside them."""
    from recap.data.simulate import simulate as run

    run(output, rows=rows, seed=seed, overwrite=overwrite)
