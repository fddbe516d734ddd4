"""`recap export`: a model as one program that runs without recap."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from recap.cli.options import SetFiles, StepOption, parse_step


def export(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL_DIR",
            help="Model directory, checkpoint, or run (its latest checkpoint).",
            show_default=False,
        ),
    ],
    kind: Annotated[
        Literal["torch", "aoti", "onnx"],
        typer.Option(
            "--format",
            help="torch: a portable program of torch.export; aoti: machine code for this machine, by AOTInductor; "
            "onnx: a graph for onnxruntime.",
            show_default=False,
        ),
    ],
    output: Annotated[Path, typer.Option(help="Folder to write.", show_default=False)],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model that was exported before.")] = False,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="SECTION.KEY=VALUE",
            help="Override of the model's configuration, such as scoring.weights.is_clicked=2. May be repeated.",
            show_default=False,
        ),
    ] = None,
    set_files: SetFiles = None,
    step: StepOption = None,
) -> None:
    """Export a model: features, network, calibration and score as one program, checked against recap."""
    from recap.cli.options import say_better_checkpoint
    from recap.cli.terminal.console import Console
    from recap.export.formats import Format
    from recap.export.write import check_export, export_model
    from recap.model.directory import open_model
    from recap.runs import find_model_directory

    console, chosen = Console(), parse_step(step)
    folder = find_model_directory(model, chosen)
    say_better_checkpoint(model, chosen, console.say)
    check_export(Format(kind), output, overwrite=overwrite)
    export_model(open_model(folder, overrides or [], set_files or []), Format(kind), output, say=console.say)
    console.say(f"written: {output}")
