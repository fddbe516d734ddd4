"""`recap calibrate`: probabilities that agree with what happens, from the rows of a validation set."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from recap.cli.options import (
    Overrides,
    Overwrite,
    SetFiles,
    Source,
    StepOption,
    in_several_processes,
    load_to_evaluate,
    parse_step,
    run_of,
    say_better_checkpoint,
)
from recap.errors import InputError

if TYPE_CHECKING:
    from recap.reporting import Say


def calibrate(
    source: Source,
    overrides: Overrides = None,
    split: Annotated[
        str | None,
        typer.Option(help="Validation set to fit on; not the rows of the training.", show_default=False),
    ] = None,
    method: Annotated[
        Literal["affine", "isotonic"],
        typer.Option(
            help="The map of each task, on logits: 'affine', a slope and an intercept, or 'isotonic', a rising line "
            "with corners, for tasks with 10,000 positives.",
        ),
    ] = "affine",
    by: Annotated[
        str | None,
        typer.Option(
            metavar="FEATURE",
            help="Discrete feature each of whose values gets an offset of its own, as far as its rows show one.",
            show_default=False,
        ),
    ] = None,
    evaluate_on: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Validation set to show the gain on; default: all others, or half of the users if there is no other.",
            show_default=False,
        ),
    ] = None,
    step: StepOption = None,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Model directory to write, with the calibration; default: the checkpoint itself is calibrated.",
            show_default=False,
        ),
    ] = None,
    overwrite: Overwrite = False,
    remove: Annotated[bool, typer.Option("--remove", help="Remove the calibration from the checkpoint.")] = False,
    set_files: SetFiles = None,
) -> None:
    """Fit the probabilities of a model to a validation set, and keep the maps with the model.

    Evaluation and prediction use them from then on. Shows log loss, RCE and calibration of other rows, before → after.
    """
    if remove:
        options = {"--split": split, "--by": by, "--evaluate-on": evaluate_on, "--output": output}
        _remove(source, step, options, overrides or [], set_files or [])
        return
    if split is None:
        raise InputError("--split: missing; name the validation set to fit on")
    if output is not None:
        from recap.data.tools.outputs import check_folder

        check_folder(output.parent)
    config = load_to_evaluate(source, overrides or [], set_files or [], is_run=source.is_dir())
    run = run_of(source, config)

    from recap.cli.terminal.console import Console
    from recap.evaluation.calibrate.run import Fit, calibrate_run
    from recap.native.allocator import tune_process
    from recap.rendezvous import joined_ranks

    console = Console()
    tune_process()
    with joined_ranks() as ranks:
        if ranks.is_first:
            say_better_checkpoint(run, step, console.say)
        fit = Fit(split, method, by, evaluate_on, parse_step(step), output, overwrite)
        calibrated = calibrate_run(config, run, fit, console.say, console.gain, ranks)
    if calibrated is not None:
        console.say(f"written: {calibrated.file}")
        _say_stale_golden(calibrated.file.parent, console.say)


def _remove(
    source: Path, step: str | None, options: Mapping[str, object], overrides: list[str], set_files: list[str]
) -> None:
    """Remove the calibration. Raises InputError for options of a fit."""
    for option, value in options.items():
        if value is not None:
            raise InputError(f"{option}: --remove fits nothing; leave out one of the two")
    if in_several_processes():
        raise InputError("--remove: scores nothing; run it without torchrun")
    config = load_to_evaluate(source, overrides, set_files, is_run=source.is_dir())

    from recap.evaluation.calibrate.run import remove_calibration
    from recap.reporting import say_to_stderr

    folder = remove_calibration(run_of(source, config), parse_step(step))
    print(f"calibration removed from {folder}")
    _say_stale_golden(folder, say_to_stderr)


def _say_stale_golden(folder: Path, say: "Say") -> None:
    from recap.serving.models.golden import GOLDEN
    from recap.storage import read_manifest

    if GOLDEN in read_manifest(folder).files:
        say(
            f"{folder / GOLDEN} holds predictions from before; write it again with 'recap model golden --overwrite', "
            "or 'recap serve' refuses the model"
        )
