"""`recap data` vocabulary and analysis: the files that a configuration needs of its data."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from recap.cli.options import ConfigFile, Inputs, Overrides, Overwrite, SchemaFile, SetFiles, check_output


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


def _check_parquet_output(file: Path, inputs: Iterable[str | Path], *, overwrite: bool) -> None:
    """Raise InputError unless a Parquet file can be written here, as `check_output`."""
    from recap.data.tools.outputs import check_folder
    from recap.errors import InputError

    check_output(file, list(inputs), overwrite=overwrite)
    check_folder(file.parent)
    if file.suffix != ".parquet":
        raise InputError(f"--output: {file} would be a Parquet file; name it {file.parent / f'{file.stem}.parquet'}")
