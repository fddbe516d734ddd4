"""`recap data`: make data, look at it, convert it."""

from pathlib import Path
from typing import Annotated

import typer

from recap.cli.options import ConfigFile, Overrides, SchemaFile, SetFiles

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Make data, look at it, and bring it into another form."
)


Inputs = Annotated[
    list[str], typer.Argument(metavar="INPUT...", help="Files or URLs, or globs of them.", show_default=False)
]


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


@app.command()
def convert(
    inputs: Inputs,
    output: Annotated[Path, typer.Option(help="Folder for the files.", show_default=False)],
    to: Annotated[
        str, typer.Option("--to", metavar="FORMAT", help="parquet, arrow, csv, jsonl or tfrecord.")
    ] = "parquet",
    schema: SchemaFile = None,
    packed: Annotated[
        bool, typer.Option("--pack", help="Parquet: lists of one length as bytes, which are read several times faster.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are already there.")] = False,
) -> None:
    """Convert files to another format, one for one; files that are there already are kept, so it can be resumed."""
    from recap.cli.console import Console
    from recap.data.tools.convert import ENDINGS, convert_files
    from recap.errors import InputError
    from recap.text import suggest

    kind = next((each for each in ENDINGS if each == to), None)
    if kind is None:
        raise InputError(f"--to: {to!r} is no format. {suggest(to, list(ENDINGS))}")
    if packed and kind != "parquet":
        raise InputError(f"--pack: only Parquet has packed columns, found --to {kind}; leave --pack out")
    console = Console()
    with console.counting("rows converted") as count:
        written, kept = convert_files(
            inputs, output, kind, schema, packed=packed, overwrite=overwrite, after_rows=count
        )
    console.say(f"written: {_files(written)} in {output}" + (f"; {_files(kept)} there already" if kept else ""))


@app.command()
def inspect(
    inputs: Inputs,
    schema: SchemaFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Look at every row of some files: for each column its type, missing values, range, distinct values, positives."""
    import json

    from recap.cli.console import Console
    from recap.data.tools.inspect import inspect_files

    if as_json:
        print(json.dumps(inspect_files(inputs, schema).as_json(), indent=1, ensure_ascii=False))
        return
    console = Console()
    with console.counting("rows looked at") as count:
        found = inspect_files(inputs, schema, count)
    console.inspection(found)


@app.command()
def vocabulary(
    inputs: Inputs,
    column: Annotated[str, typer.Option(help="The column of strings.", show_default=False)],
    output: Annotated[Path, typer.Option(metavar="FILE", help="Parquet file to write.", show_default=False)],
    min_count: Annotated[int, typer.Option(min=1, help="Leave out strings of fewer rows; they count as unknown.")] = 1,
    schema: SchemaFile = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is already there.")] = False,
) -> None:
    """Count the strings of a column and write those to know, the most frequent first; row k has code k + 1."""
    from recap.cli.console import Console
    from recap.data.tools.vocabulary import count_values, write_table
    from recap.errors import InputError

    if output.exists() and not overwrite:
        raise InputError(f"--output: {output} is already there; add --overwrite to replace it")
    console = Console()
    with console.counting("rows counted") as count:
        table = count_values(inputs, column, schema, min_count=min_count, after_rows=count)
    write_table(table, output)
    console.say(f"written: {output}, {table.num_rows:,} strings; use it as features.discrete.{column}.vocabulary")


@app.command()
def analysis(
    config: ConfigFile,
    output: Annotated[Path, typer.Option(metavar="FILE", help="Parquet file to write.", show_default=False)],
    overrides: Overrides = None,
    set_files: SetFiles = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is already there.")] = False,
) -> None:
    """Read the data to train on: mean and deviation of each continuous value after the logarithm, for z_score_log."""
    from recap.cli.console import Console
    from recap.config.file.load import load_config
    from recap.data.tools.analysis import analyse
    from recap.data.tools.vocabulary import write_table
    from recap.errors import InputError

    if output.exists() and not overwrite:
        raise InputError(f"--output: {output} is already there; add --overwrite to replace it")
    loaded = load_config(config, overrides or [], set_files or [])
    console = Console()
    with console.counting("rows analysed") as count:
        table = analyse(loaded, count)
    write_table(table, output)
    console.say(f"written: {output}, {table.num_rows:,} values; use it as model.featurization.analysis of z_score_log")


@app.command()
def serve(
    config: ConfigFile,
    overrides: Overrides = None,
    set_files: SetFiles = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Where to listen; 0: any port that is free.")] = 5005,
    host: Annotated[
        str, typer.Option(help="Whose connections to take; 0.0.0.0: those of every host that reaches this one.")
    ] = "127.0.0.1",
) -> None:
    """Read the data sets of a configuration for trainers whose 'readers' are 'kind: service'; until it is ended."""
    from threading import Event

    from recap.cli.console import Console
    from recap.config.file.load import load_config

    loaded = load_config(config, overrides or [], set_files or [])

    from recap.data.open import open_sources
    from recap.data.remote.server import DataServer

    server = DataServer(open_sources(loaded), host, port)
    console = Console()
    console.say(f"serving {', '.join(server.sets)} at {host}:{server.port}")
    console.say("there is no authentication and no encryption: whoever can connect can read these rows")
    try:
        Event().wait()
    finally:
        server.shutdown()


def _files(files: list[Path]) -> str:
    return "1 file" if len(files) == 1 else f"{len(files):,} files"


def _rate(text: str) -> tuple[str, float]:
    from recap.errors import InputError

    task, _, rate = text.partition("=")
    try:
        return task, float(rate)
    except ValueError:
        raise InputError(f"--downsample: expected TASK=RATE, such as is_reported=0.1, found {text!r}") from None
