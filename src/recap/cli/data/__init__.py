"""`recap data`: simulate, convert, split, aggregate, inspect and serve data, and what a configuration needs of it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from recap.cli.data.aggregates import aggregate
from recap.cli.options import ConfigFile, Overrides, Overwrite, SchemaFile, SetFiles, check_output

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Simulate, convert, split, aggregate, inspect and serve data.",
)

Inputs = Annotated[
    list[str], typer.Argument(metavar="INPUT", help="Files, URLs, or globs of them.", show_default=False)
]


@app.command()
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


@app.command()
def convert(
    inputs: Inputs,
    output: Annotated[Path, typer.Option(help="Folder to write to.", show_default=False)],
    to: Annotated[
        str, typer.Option("--to", metavar="FORMAT", help="Format: parquet, arrow, csv, jsonl or tfrecord.")
    ] = "parquet",
    schema: SchemaFile = None,
    packed: Annotated[
        bool,
        typer.Option(
            "--pack", help="Parquet only: store lists of equal length as bytes, which are several times faster to read."
        ),
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Convert data files to another format.

    Writes one output file per input file. Keeps existing ones, so that an interrupted conversion can be resumed.
    """
    from recap.cli.terminal.console import Console
    from recap.data.tools.convert import ENDINGS, convert_files
    from recap.errors import InputError
    from recap.text import plural, suggest

    format_ = next((name for name in ENDINGS if name == to), None)
    if format_ is None:
        raise InputError(f"--to: unknown format {to!r}. {suggest(to, list(ENDINGS))}")
    if packed and format_ != "parquet":
        raise InputError(f"--pack: only works with --to parquet, found --to {to}; leave out --pack")
    console = Console()
    with console.counting("rows converted") as count:
        written, skipped = convert_files(
            inputs, output, format_, schema, packed=packed, overwrite=overwrite, after_rows=count
        )
    console.say(
        f"written: {plural(len(written), 'file')} in {output}"
        + (f"; {plural(len(skipped), 'file')} already exist" if skipped else "")
    )


@app.command()
def split(
    inputs: Inputs,
    by: Annotated[str, typer.Option("--by", metavar="COLUMN", help="Column of the time.", show_default=False)],
    output: Annotated[Path, typer.Option(help="Folder to write to.", show_default=False)],
    days: Annotated[bool, typer.Option("--days", help="One file per day.")] = False,
    hours: Annotated[bool, typer.Option("--hours", help="One file per hour.")] = False,
    at: Annotated[
        list[str] | None,
        typer.Option(
            "--at",
            metavar="TIME",
            help="First moment of a file: a date, a time, or a number as in the column. May be repeated, ascending.",
            show_default=False,
        ),
    ] = None,
    timezone: Annotated[
        str, typer.Option(metavar="NAME", help="Time zone of days, hours and TIME, such as Asia/Shanghai.")
    ] = "UTC",
    schema: SchemaFile = None,
    overwrite: Overwrite = False,
) -> None:
    """Split the rows of data files by time.

    Writes one Parquet file per window of time, named by its start, such as 2026-01-31.parquet.
    """
    from recap.cli.terminal.console import Console
    from recap.data.tools.split import parse_cut, split_files
    from recap.text import plural

    cut = parse_cut(days=days, hours=hours, at=at or [], timezone=timezone)
    console = Console()
    with console.counting("rows split") as count:
        written = split_files(inputs, output, by, cut, schema, overwrite=overwrite, after_rows=count)
    for file, rows in written.items():
        console.say(f"written: {file}, {plural(rows, 'row')}")


app.command()(aggregate)


@app.command()
def inspect(
    inputs: Inputs,
    schema: SchemaFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Describe the columns of data files.

    Reads every row: type, missing values, range, distinct values and ones of each column.
    """
    import json

    from recap.cli.terminal.console import Console
    from recap.data.tools.inspect import inspect_files

    if as_json:
        print(json.dumps(inspect_files(inputs, schema).as_json(), indent=1, ensure_ascii=False))
        return
    console = Console()
    with console.counting("rows read") as count:
        inspection = inspect_files(inputs, schema, count)
    console.inspection(inspection)


@app.command()
def compare(
    one: Annotated[str, typer.Argument(metavar="ONE", help="Files: a path, URL or quoted glob.", show_default=False)],
    other: Annotated[str, typer.Argument(metavar="OTHER", help="The files to compare.", show_default=False)],
    keys: Annotated[
        list[str] | None,
        typer.Option(
            "--key",
            metavar="NAME",
            help="Column that tells rows apart: compare the values of rows with equal keys. May be repeated.",
            show_default=False,
        ),
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            "--column",
            metavar="NAME",
            help="Column to compare; default: all that both have. May be repeated.",
            show_default=False,
        ),
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="With --key: rows of ONE to look up in OTHER.")] = 200_000,
    fail_above: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Exit with 1 if a PSI or, with --key, a share of rows that differ is above this.",
            show_default=False,
        ),
    ] = None,
    schema: SchemaFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Compare the columns of two sets of files, such as training data and the request log of a server.

    Without --key, compares distributions. With --key, compares the values of the same rows.
    """
    import json

    from recap.cli.terminal.console import Console
    from recap.cli.terminal.skew import skew_table
    from recap.errors import RunError
    from recap.evaluation.skew.run import compare_files
    from recap.text import shorten

    console = Console(to_errors=as_json)
    with console.counting("rows read") as count:
        skew = compare_files(one, other, keys or [], columns or [], schema, max_rows=rows, after_rows=count)
    if as_json:
        print(json.dumps(skew.to_json(), indent=1, ensure_ascii=False, allow_nan=False))
    else:
        console.show(skew_table(skew))
        for name, only in (("ONE", skew.only[0]), ("OTHER", skew.only[1])):
            if only:
                console.say(f"only in {name}: {shorten(', '.join(only), 300)}")
        if skew.not_compared:
            console.say(f"not compared, because of their types: {shorten(', '.join(skew.not_compared), 300)}")
    above = skew.above(fail_above) if fail_above is not None else []
    if above:
        raise RunError(f"above {fail_above:g}: {shorten(', '.join(above), 300)}")


@app.command()
def vocabulary(
    inputs: Inputs,
    columns: Annotated[
        list[str],
        typer.Option(
            "--column",
            metavar="NAME",
            help="Column of strings or integers, or of lists of them. May be repeated.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="Parquet file to write; for several columns the folder, in which each has the file NAME.parquet.",
            show_default=False,
        ),
    ],
    min_count: Annotated[
        int, typer.Option(min=1, help="How often a value must occur; rarer values count as unknown.")
    ] = 1,
    schema: SchemaFile = None,
    overwrite: Overwrite = False,
) -> None:
    """Write the vocabulary of a column: its distinct values with their counts.

    The most frequent value comes first; the value in row k has code k + 1.
    """
    from urllib.parse import quote

    from recap.cli.terminal.console import Console
    from recap.data.formats.files import find_files
    from recap.data.tools.vocabulary import count_values, write_table
    from recap.text import plural

    several = len(set(columns)) > 1
    files = {name: output / f"{quote(name, safe='')}.parquet" if several else output for name in columns}
    for file in files.values():
        _check_parquet_output(file, find_files(inputs), overwrite=overwrite)
    console = Console()
    with console.counting("rows counted") as count:
        tables = count_values(inputs, list(files), schema, min_count=min_count, after_rows=count)
    for name, file in files.items():
        write_table(tables[name], file)
        console.say(f"written: {file}, {plural(tables[name].num_rows, 'value')}; a 'vocabulary' for column {name!r}")


@app.command()
def analysis(
    config: ConfigFile,
    output: Annotated[Path, typer.Option(metavar="FILE", help="Parquet file to write.", show_default=False)],
    overrides: Overrides = None,
    set_files: SetFiles = None,
    overwrite: Overwrite = False,
) -> None:
    """Write mean and deviation of the continuous features, for z_score_log.

    Reads all training data, and measures values after the logarithm.
    """
    from recap.cli.terminal.console import Console
    from recap.config.file.load import load_config
    from recap.data.formats.files import find_files
    from recap.data.tools.analysis import analyse
    from recap.data.tools.vocabulary import write_table
    from recap.text import plural

    loaded = load_config(config, overrides or [], set_files or [])
    inputs: list[str | Path] = [config, *find_files(loaded.train_data.source.inputs)]
    _check_parquet_output(output, inputs, overwrite=overwrite)
    console = Console()
    with console.counting("rows analysed") as count:
        table = analyse(loaded, count)
    write_table(table, output)
    values = plural(table.num_rows, "value")
    console.say(f"written: {output}, {values}; for model.featurization.analysis of z_score_log")


@app.command()
def serve(
    config: ConfigFile,
    overrides: Overrides = None,
    set_files: SetFiles = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 chooses a free one.")] = 5005,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 accepts any host, with a token, mTLS, or --insecure.")
    ] = "127.0.0.1",
    token_file: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="File with a token of at least 16 characters, which clients need.", show_default=False
        ),
    ] = None,
    certificate: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="PEM file of the server's certificate chain; with --private-key, connections are encrypted.",
            show_default=False,
        ),
    ] = None,
    private_key: Annotated[
        str | None, typer.Option(metavar="FILE", help="PEM file of the key of --certificate.", show_default=False)
    ] = None,
    client_ca: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="PEM file of the authority that signs the certificates which clients need: mTLS.",
            show_default=False,
        ),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Listen on an address that is not loopback without token or mTLS.")
    ] = False,
    max_requests: Annotated[
        int, typer.Option(min=1, help="Requests in work; each holds a row group in memory. More clients wait.")
    ] = 16,
) -> None:
    """Read data for trainers on other hosts.

    The trainers set `readers: {kind: service}`. SIGTERM or Ctrl-C finishes requests in work; a second one stops the
    server at once.
    """
    from recap.cli.terminal.data_server import serve_data
    from recap.config.file.load import load_config
    from recap.data.remote.access import Access

    access = Access(host, port, token_file, certificate, private_key, client_ca, insecure)
    access.settings(print)  # refuses options and their files before torch and the data, which take long
    serve_data(load_config(config, overrides or [], set_files or []), config, access, max_requests)


def _check_parquet_output(file: Path, inputs: Iterable[str | Path], *, overwrite: bool) -> None:
    """Raise InputError unless a Parquet file can be written here, as `check_output`."""
    from recap.data.tools.outputs import check_folder
    from recap.errors import InputError

    check_output(file, list(inputs), overwrite=overwrite)
    check_folder(file.parent)
    if file.suffix != ".parquet":
        raise InputError(f"--output: {file} would be a Parquet file; name it {file.parent / f'{file.stem}.parquet'}")


def _parse_rate(text: str) -> tuple[str, float]:
    from recap.errors import InputError

    task, _, rate = text.partition("=")
    try:
        return task, float(rate)
    except ValueError:
        raise InputError(f"--downsample: expected TASK=RATE, such as is_reported=0.1, found {text!r}") from None
