"""`recap data aggregate`."""

from pathlib import Path
from typing import Annotated

import typer

from recap.cli.options import Overwrite, SchemaFile

Spec = Annotated[Path, typer.Argument(metavar="SPEC", help="YAML file of keys and aggregates.", show_default=False)]
Logs = Annotated[
    list[str], typer.Argument(metavar="LOG", help="Files of impressions, URLs, or globs of them.", show_default=False)
]
Output = Annotated[
    Path | None,
    typer.Option("--output", metavar="DIR", help="Folder to write the log with its aggregates to.", show_default=False),
]
StateFolder = Annotated[
    Path | None,
    typer.Option(
        "--state",
        metavar="DIR",
        help="Folder to write the state to, from which a server looks values up.",
        show_default=False,
    ),
]
At = Annotated[
    str | None,
    typer.Option(
        "--at",
        metavar="TIME",
        help="The time of the state: impressions at or after this date, time, or number as in the log are left out; "
        "default: after the last one.",
        show_default=False,
    ),
]


def aggregate(
    spec: Spec,
    log: Logs,
    output: Output = None,
    state: StateFolder = None,
    at: At = None,
    schema: SchemaFile = None,
    overwrite: Overwrite = False,
) -> None:
    """Add to each impression what was known before it: counts, rates, recency and last values by user, item or pair.

    With --output, writes one Parquet file per file of the log; with --state, what a server needs to look the same
    values up; with both, reads the log once.
    """
    from recap.cli.terminal.console import Console
    from recap.data.aggregate.run import aggregate_files
    from recap.data.aggregate.spec import load_spec
    from recap.data.aggregate.state import parse_at
    from recap.data.tools.times import shown
    from recap.errors import InputError
    from recap.text import plural

    if output is None and state is None:
        raise InputError(
            "give --output DIR for the log with its aggregates, --state DIR for the state of a server, or both"
        )
    if at is not None and state is None:
        raise InputError(
            "--at: only works with --state, because with --output each impression gets the values of its own time; "
            "leave out --at"
        )
    loaded = load_spec(spec)
    moment = parse_at(at, loaded) if at is not None else None
    console = Console()
    with console.counting("rows read") as count:
        written = aggregate_files(
            loaded, log, output, schema, state=state, at=moment, overwrite=overwrite, after_rows=count
        )
    if output is not None:
        console.say(f"written: {plural(len(written.files), 'file')} in {output}")
    if state is not None and written.at is not None:
        sizes = ", ".join(f"{key} {plural(number, 'row')}" for key, number in written.rows.items())
        console.say(f"written: {state}, as of {shown(written.at)}: {sizes}")
