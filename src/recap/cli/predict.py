"""`recap predict`: probabilities and scores of candidates in files."""

from pathlib import Path
from typing import Annotated

import typer

from recap.cli.options import NullValues, Overwrite, SchemaFile, SetFiles, StepOption, parse_step


def predict(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL_DIR",
            help="Model directory, checkpoint, or run (its latest checkpoint).",
            show_default=False,
        ),
    ],
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT",
            help="Files, URLs, or globs of them; labels are not needed.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path, typer.Option(help="Folder to write to: one Parquet file per input file.", show_default=False)
    ],
    overwrite: Overwrite = False,
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
    schema: SchemaFile = None,
    null_values: NullValues = None,
    step: StepOption = None,
) -> None:
    """Predict the tasks and the score of every row of the inputs."""
    from recap.cli.terminal.console import Console
    from recap.inference.files import predict_files
    from recap.inference.predictor import Predictor
    from recap.native.allocator import tune_process
    from recap.runs import better_checkpoint, find_model_directory
    from recap.text import plural

    console = Console()
    tune_process()
    folder = find_model_directory(model, parse_step(step))
    if step is None and (remark := better_checkpoint(model, folder)) is not None:
        console.say(remark)
    predictor = Predictor.open(folder, overrides or [], set_files or [])
    with console.counting("rows predicted") as count:
        files = predict_files(
            predictor,
            inputs,
            output,
            schema,
            null_values=null_values or [],
            overwrite=overwrite,
            after_rows=count,
            say=console.say,
        )
    console.say(f"written: {plural(len(files), 'file')} in {output}")
