"""`recap export`: a model as one program that runs without recap."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recap.cli.options import ModelDirectory, ModelOverrides, SetFiles, StepOption, parse_step, say_better_checkpoint
from recap.errors import InputError

if TYPE_CHECKING:
    from recap.export.formats import Format


def export(
    model: ModelDirectory,
    kind: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="torch: a portable program of torch.export; aoti: machine code for this machine, by AOTInductor; "
            "onnx: a graph for onnxruntime.",
            show_default=False,
        ),
    ],
    output: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write.", show_default=False)],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model that was exported before.")] = False,
    overrides: ModelOverrides = None,
    set_files: SetFiles = None,
    step: StepOption = None,
) -> None:
    """Export a model: features, network, calibration and score as one program, checked against recap."""
    from recap.cli.terminal.console import Console
    from recap.export.write import check_export, export_model
    from recap.model.directory import open_model
    from recap.runs import find_model_directory

    console, chosen, program = Console(), parse_step(step), _format(kind)
    folder = find_model_directory(model, chosen)
    say_better_checkpoint(model, chosen, console.say)
    check_export(program, output, overwrite=overwrite)
    export_model(open_model(folder, overrides or [], set_files or []), program, output, say=console.say)
    console.say(f"written: {output}")


def _format(text: str) -> "Format":
    """The value of `--format`. Raises InputError."""
    from recap.export.formats import Format
    from recap.text import suggest

    known = [each.value for each in Format]
    if text not in known:
        raise InputError(f"--format: unknown format {text!r}. {suggest(text, known)}")
    return Format(text)
