"""`recap config`: write, check, read and compare configurations without running them."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from recap.cli.options import ConfigFile, Overrides, SchemaFile, SetFiles

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Work with a configuration without running it.")

Output = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="File to write; none given: standard output.", show_default=False),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a file that is already there.")]


@app.command()
def check(
    config: ConfigFile,
    overrides: Overrides = None,
    set_files: SetFiles = None,
    data: Annotated[
        bool, typer.Option("--data", help="Check the data too: globs, columns, types, vocabularies.")
    ] = False,
) -> None:
    """Read a configuration and report every problem in it, with its place."""
    from recap.config.file.load import resolve

    resolved = resolve(config, overrides or [], set_files or [])
    checked = resolved.config
    if data:
        from recap.data.tools.check import check_data

        check_data(resolved)
    inputs = len(checked.features.inputs)
    validation = ", ".join(checked.validation_data) or "none"
    print(f"{config}: good. {inputs} feature columns, tasks: {', '.join(checked.tasks)}; validation sets: {validation}")


@app.command()
def show(config: ConfigFile, overrides: Overrides = None, set_files: SetFiles = None) -> None:
    """Print the resolved configuration, with the origin of every value that is not a default."""
    from recap.config.file.load import resolve, show_config

    print(show_config(resolve(config, overrides or [], set_files or [])), end="")


@app.command()
def diff(
    before: Annotated[Path, typer.Argument(metavar="A", help="A configuration or a run.", show_default=False)],
    after: Annotated[Path, typer.Argument(metavar="B", help="A configuration or a run.", show_default=False)],
) -> None:
    """Print what differs between two resolved configurations, and nothing else."""
    from recap.config.file.diff import describe_changes, differences
    from recap.config.file.load import load_config
    from recap.runs import Run

    old, new = (load_config(Run(path).config_file if path.is_dir() else path, stored=True) for path in (before, after))
    for line in describe_changes(differences(old, new)):
        print(line)


@app.command()
def new(
    files: Annotated[
        list[str] | None, typer.Argument(metavar="[FILE]...", help="More files of --from-data.", show_default=False)
    ] = None,
    from_data: Annotated[
        list[str] | None,
        typer.Option("--from-data", metavar="FILES", help="Files of data, or a glob, whose columns to sort."),
    ] = None,
    schema_file: SchemaFile = None,
    output: Output = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a commented configuration to start from; with data, its columns sorted, with a word on each guess."""
    from recap.config.file.starter import starter
    from recap.errors import InputError

    if files and not from_data:
        raise InputError(f"'{files[0]}' is given without --from-data; write --from-data {' '.join(files)}")
    if not from_data:
        _write(starter(), output, overwrite=overwrite)
        return
    from recap.data.tools.guess import guess_columns

    inputs = [*from_data, *(files or [])]
    found = guess_columns(inputs, schema_file)
    _write(starter(found.columns, found.source, found.rows, found.sampled), output, overwrite=overwrite)


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file in the published form.", show_default=False)],
    output: Output = None,
    overwrite: Overwrite = False,
) -> None:
    """Turn a file in the published form into one of ours; say what changes in meaning.

    What cannot be taken over is refused, all of it at once, each with its reason; nothing is written then.
    """
    from recap.cli.messages import print_remarks
    from recap.published.convert.config import import_config

    imported = import_config(str(file))
    _write(imported.text, output, overwrite=overwrite)
    print_remarks(imported.remarks)


@app.command()
def schema(output: Output = None, overwrite: Overwrite = False) -> None:
    """Write the JSON Schema of a configuration, by which editors complete and check."""
    from recap.config.file.json_schema import schema_text

    _write(schema_text(), output, overwrite=overwrite)


def _write(text: str, output: Path | None, *, overwrite: bool) -> None:
    """`text` to a file, whole or not at all, or to standard output."""
    from recap.errors import InputError

    if output is None:
        print(text, end="")
        return
    try:
        if output.exists() and not output.is_file():
            raise InputError(f"--output: {output} is no file that could be replaced; give another name")
        if output.exists() and not overwrite:
            raise InputError(f"--output: {output} is already there; add --overwrite to replace it")
        output.parent.mkdir(parents=True, exist_ok=True)
        unfinished = output.with_name(output.name + ".unfinished")
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(output)
    except (OSError, ValueError) as error:  # a name that cannot be, or text that is no Unicode
        why = getattr(error, "strerror", None) or str(error)
        raise InputError(f"--output: {output} cannot be written ({why})") from None
    print(f"written: {output}", file=sys.stderr)
