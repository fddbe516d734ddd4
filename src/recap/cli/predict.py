"""`recap predict`: probabilities and scores for unseen candidates."""

from pathlib import Path
from typing import Annotated

import typer

from recap.cli.options import SchemaFile, SetFiles, StepOption, step_of


def predict(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL_DIR",
            help="A model directory or checkpoint, or a run (its latest checkpoint).",
            show_default=False,
        ),
    ],
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="Files of any format, or globs of them; labels are not needed.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path, typer.Option(help="Folder for the predictions, a file for each input file.", show_default=False)
    ],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace predictions that are already there.")] = False,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="SECTION.KEY=VALUE",
            help="A value that replaces that of the model's configuration, such as scoring.weights.is_clicked=2.",
            show_default=False,
        ),
    ] = None,
    set_files: SetFiles = None,
    schema: SchemaFile = None,
    step: StepOption = None,
) -> None:
    """Predict every engagement and the final score of each row of INPUT."""
    from recap.cli.console import Console
    from recap.inference.files import predict_files
    from recap.inference.predictor import Predictor
    from recap.runs import find_model_directory

    console = Console()
    predictor = Predictor.open(find_model_directory(model, step_of(step)), overrides or [], set_files or [])
    with console.counting("rows predicted") as count:
        files = predict_files(predictor, inputs, output, schema, overwrite=overwrite, after_rows=count)
    console.say(f"written: {len(files)} file{'s' if len(files) != 1 else ''} in {output}")
