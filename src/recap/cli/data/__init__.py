"""`recap data`: simulate, convert, split, aggregate, inspect and serve data, and what a configuration needs of it."""

import typer

from recap.cli.data import aggregates, assets, files, server, simulated

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Simulate, convert, split, aggregate, inspect and serve data.",
)
for command in (
    simulated.simulate,
    files.convert,
    files.split,
    aggregates.aggregate,
    files.inspect,
    files.compare,
    assets.vocabulary,
    assets.analysis,
    server.serve,
):
    app.command()(command)
