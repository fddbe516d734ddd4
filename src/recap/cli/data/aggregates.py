"""`recap data aggregate`."""

from pathlib import Path
from typing import Annotated

import typer

from recap.cli.options import Overwrite, SchemaFile


def aggregate(
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="YAML file of keys and aggregates.", show_default=False)],
    log: Annotated[
        list[str],
        typer.Argument(metavar="LOG", help="Files of impressions, URLs, or globs of them.", show_default=False),
    ],
    output: Annotated[
        Path | None,
        typer.Option(help="Folder to write the log with its aggregates to; this or --state.", show_default=False),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(
            help="Folder to write the state to, from which a server looks values up; this or --output.",
            show_default=False,
        ),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="With --state: leave out impressions at or after this date, time, or number as in the log.",
            show_default=False,
        ),
    ] = None,
    schema: SchemaFile = None,
    overwrite: Overwrite = False,
) -> None:
    """Add to each impression what was known before it: counts, rates, recency and last values by user, item or pair.

    With --output, writes one Parquet file per file of the log; with --state, what a server needs to look the same
    values up.
    """
    from recap.cli.terminal.console import Console
    from recap.data.aggregate.run import aggregate_files
    from recap.data.aggregate.spec import load_spec
    from recap.data.aggregate.state import parse_at, write_state
    from recap.data.tools.times import shown
    from recap.errors import InputError
    from recap.text import plural

    if output is None and state is None:
        raise InputError("give --output DIR for the log with its aggregates, or --state DIR for the state of a server")
    if output is not None and state is not None:
        raise InputError("give only one of --output and --state; for both, run the command twice")
    if at is not None and state is None:
        raise InputError(
            "--at: only works with --state, because with --output each impression gets the values of its own time; "
            "leave out --at"
        )
    loaded = load_spec(spec)
    moment = parse_at(at, loaded) if at is not None else None
    console = Console()
    with console.counting("rows read") as count:
        if output is not None:
            written = aggregate_files(loaded, log, output, schema, overwrite=overwrite, after_rows=count)
            text = f"{plural(len(written), 'file')} in {output}"
        else:
            assert state is not None, "one of both is given"
            moment, rows = write_state(loaded, log, state, moment, schema, overwrite=overwrite, after_rows=count)
            sizes = ", ".join(f"{key} {plural(number, 'row')}" for key, number in rows.items())
            text = f"{state}, as of {shown(moment)}: {sizes}"
    console.say(f"written: {text}")
