"""`recap data` convert, split, inspect and compare: for any data files."""

from pathlib import Path
from typing import Annotated

import typer

from recap.cli.options import Inputs, Overwrite, SchemaFile


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
