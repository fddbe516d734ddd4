"""`recap config`: write, check, show and compare configurations without running them."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from recap.cli.options import ConfigFile, Overrides, Overwrite, SchemaFile, SetFiles, check_output, config_file
from recap.errors import ConfigError

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Write, check, show and compare configurations.")

Output = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="File to write; default: standard output.", show_default=False),
]


@app.command()
def check(
    config: ConfigFile,
    overrides: Overrides = None,
    set_files: SetFiles = None,
    data: Annotated[
        bool, typer.Option("--data", help="Also check the data: files, columns, vocabularies, and values of some rows.")
    ] = False,
) -> None:
    """Check a configuration and report all its problems."""
    from recap.cli.terminal.messages import print_warnings
    from recap.config.file.load import resolve
    from recap.text import plural, shorten

    try:
        resolved = resolve(config, overrides or [], set_files or [])
    except ConfigError as error:
        from recap.serving.configuration import is_server_file

        if not is_server_file(str(config)):
            raise
        text = f"{config}: looks like a file of a server; check it with: recap serve --config {config} --check"
        raise ConfigError(text) from error
    if resolved.config.tuning is not None:
        from recap.config.file.load import Template
        from recap.tuning.space import checked_space

        checked_space(resolved, Template.read(config, overrides or [], set_files or []))
    warnings, looked_at = [*resolved.warnings, *resolved.missing_packages], ""
    if data:
        from recap.data.tools.check import check_data
        from recap.training.teachers import teacher_encoders

        report = check_data(resolved, teacher_encoders(resolved.config))
        warnings += report.warnings
        share = "all" if report.sampled == report.rows else f"{report.sampled:,} of"
        rows = f"{share} {report.rows:,} rows"
        looked_at = f"; looked at the columns of {plural(report.files, 'file')} and the values of {rows}"
    print_warnings(warnings)
    loaded = resolved.config
    columns, tasks = len(loaded.features.inputs), shorten(", ".join(loaded.tasks), 500)
    validation = shorten(", ".join(loaded.validation_data), 500) or "none"
    verdict = f"no problems, {plural(len(warnings), 'warning')}" if warnings else "no problems"
    print(f"{config}: {verdict}. {columns} feature columns; tasks: {tasks}; validation sets: {validation}{looked_at}")


@app.command()
def show(config: ConfigFile, overrides: Overrides = None, set_files: SetFiles = None) -> None:
    """Print the resolved configuration, with the origin of each value."""
    from recap.config.file.load import resolve, show_config

    print(show_config(resolve(config, overrides or [], set_files or [])), end="")


@app.command()
def diff(
    before: Annotated[Path, typer.Argument(metavar="A", help="Configuration file or run.", show_default=False)],
    after: Annotated[Path, typer.Argument(metavar="B", help="Configuration file or run.", show_default=False)],
) -> None:
    """Print the differences between two resolved configurations."""
    from recap.config.file.diff import describe_changes, differences
    from recap.config.file.load import load_config

    old, new = (load_config(config_file(path), stored=path.is_dir()) for path in (before, after))
    for line in describe_changes(differences(old, new)):
        print(line)


MoreFiles = Annotated[
    list[str] | None,
    typer.Argument(metavar="FILE", help="More data files, after --from-data.", show_default=False),
]
FromData = Annotated[
    list[str] | None,
    typer.Option("--from-data", metavar="FILE", help="Data file, or a glob, whose columns become features and labels."),
]
Labels = Annotated[
    list[str] | None,
    typer.Option(
        "--label",
        metavar="COLUMN[:KIND]",
        help="Label column, in addition to those named like an engagement. KIND: binary (0 or 1; default), "
        "regression (a number), or at_least=NUMBER (1 from that number on). May be repeated.",
        show_default=False,
    ),
]
User = Annotated[str | None, typer.Option(metavar="COLUMN", help="User column; default: by name.")]
Item = Annotated[
    str | None, typer.Option(metavar="COLUMN", help="Item column, copied to the predictions; default: by name.")
]
Time = Annotated[str | None, typer.Option(metavar="COLUMN", help="Time column; default: by name and type.")]
Validation = Annotated[
    str | None,
    typer.Option(
        metavar="FILES|last-day|SHARE",
        help="Validation data: other files, or the latest rows by time, of the last day or a share such as 0.1. "
        "Rows are split into two new Parquet files in the folder data beside --output.",
        show_default=False,
    ),
]


@app.command()
def new(
    files: MoreFiles = None,
    from_data: FromData = None,
    label: Labels = None,
    user: User = None,
    item: Item = None,
    time: Time = None,
    validation: Validation = None,
    schema_file: SchemaFile = None,
    output: Output = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a commented configuration to start from.

    With data files, guesses the role of each column, and explains the guess in a comment. With --output, strings of
    few values get vocabularies, written to the folder vocabularies beside it; all others are hashed.
    """
    from recap.config.file.starter import starter
    from recap.errors import InputError

    if files and not from_data:
        raise InputError(f"unexpected argument {files[0]!r}; for data files, write --from-data {' '.join(files)}")
    if not from_data:
        needs_data = {"--label": label, "--user": user, "--item": item, "--time": time, "--validation": validation}
        if unused := [option for option, value in needs_data.items() if value is not None]:
            raise InputError(f"{unused[0]} needs data; add --from-data FILES")
        _write(starter(), output, overwrite=overwrite)
        return
    from recap.data.formats.files import find_files
    from recap.data.tools.guess.options import StatedColumns, StatedLabel
    from recap.data.tools.guess.starter import start_from_data

    stated = StatedColumns([StatedLabel.parse(text) for text in label or []], user, item, time)
    inputs = [*from_data, *(files or [])]
    if output is not None:
        check_output(output, find_files(inputs), overwrite=overwrite)
    text = start_from_data(
        inputs,
        schema_file,
        stated=stated,
        validation=validation,
        output=output,
        overwrite=overwrite,
        say=lambda line: print(line, file=sys.stderr),
    )
    _write(text, output, overwrite=overwrite)


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File in the published form.", show_default=False)],
    output: Output = None,
    overwrite: Overwrite = False,
) -> None:
    """Convert a published configuration into ours.

    Prints a remark for each value that changes its meaning. If some fields cannot be converted, prints the reason for
    each and writes nothing.
    """
    from recap.cli.terminal.messages import print_remarks
    from recap.published.convert.config import import_config

    imported = import_config(str(file))
    _write(imported.text, output, [file], overwrite=overwrite)
    print_remarks(imported.remarks)


@app.command()
def schema(output: Output = None, overwrite: Overwrite = False) -> None:
    """Write the JSON Schema of configurations, for use in editors."""
    from recap.config.file.json_schema import schema_text

    _write(schema_text(), output, overwrite=overwrite)


def _write(text: str, output: Path | None, inputs: Sequence[str | Path] = (), *, overwrite: bool) -> None:
    """Write `text` to a file, atomically, or to standard output. Raises InputError, also if the file is an input."""
    from recap.errors import InputError
    from recap.storage import atomic_write

    if output is None:
        print(text, end="")
        return
    try:
        check_output(output, inputs, overwrite=overwrite)
        output.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(output) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except (OSError, ValueError) as error:  # ValueError: a file name or text that cannot be encoded
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"--output: {output} cannot be written ({reason}); choose another") from None
    print(f"written: {output}", file=sys.stderr)
