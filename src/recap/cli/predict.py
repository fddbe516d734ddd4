"""`recap predict`: probabilities and scores of candidates in files."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, cast

import typer

from recap.cli.options import (
    ModelDirectory,
    ModelOverrides,
    NullValues,
    Overwrite,
    SchemaFile,
    SetFiles,
    StepOption,
    in_several_processes,
    parse_step,
    say_better_checkpoint,
)
from recap.errors import DataError, InputError, RunError

if TYPE_CHECKING:
    from recap.config.training import InferencePrecision
    from recap.inference.bulk import BulkOptions, OutputKind
    from recap.inference.files import Predicted
    from recap.reporting import Say

_STREAM = "-"
"""`--output -` is standard output."""
_ON_BAD_DATA = ("stop", "list")


def predict(
    model: ModelDirectory,
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT",
            help="Files, URLs, or globs of them; labels are not needed.",
            show_default=False,
        ),
    ],
    output: Annotated[
        str,
        typer.Option(
            metavar="DIR",
            help="Folder to write to, one file per input file; - writes one stream to standard output.",
            show_default=False,
        ),
    ],
    format_: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="Format: parquet, arrow, csv or jsonl; default: parquet, to standard output csv.",
            show_default=False,
        ),
    ] = None,
    on_bad_data: Annotated[
        str,
        typer.Option(
            "--on-bad-data",
            metavar="stop|list",
            help="What to do with rows that cannot be scored and files that cannot be read: stop with an error, or go "
            "on with null predictions and list them in _errors.jsonl.",
        ),
    ] = "stop",
    overwrite: Overwrite = False,
    overrides: ModelOverrides = None,
    set_files: SetFiles = None,
    precision: Annotated[
        str,
        typer.Option(
            "--precision",
            metavar="PRECISION",
            help="float32 agrees with evaluation exactly; bf16 and int8 are faster and differ slightly; auto is bf16 "
            "where the hardware has it.",
        ),
    ] = "float32",
    schema: SchemaFile = None,
    null_values: NullValues = None,
    step: StepOption = None,
) -> None:
    """Predict the tasks and the score of every row of the inputs.

    Run the same command again to continue after an interruption, or for new inputs: files that are complete are kept.
    """
    to_stream = output == _STREAM
    kind = _kind(format_, to_stream=to_stream)
    if on_bad_data not in _ON_BAD_DATA:
        raise InputError(f"--on-bad-data: expected stop or list, found {on_bad_data!r}")
    if to_stream and overwrite:
        raise InputError("--overwrite: standard output replaces no file; leave the option out")

    if to_stream and in_several_processes():
        raise InputError("--output -: one process writes standard output; run without torchrun, or give a folder")

    from recap.cli.terminal.console import Console
    from recap.inference.bulk import BulkOptions
    from recap.inference.files import predict_files
    from recap.inference.predictor import Predictor
    from recap.inference.record import ERRORS
    from recap.inference.stream import predict_stream
    from recap.native.allocator import tune_process
    from recap.rendezvous import joined_ranks
    from recap.runs import find_model_directory
    from recap.text import plural

    console = Console(to_errors=to_stream)
    tune_process()
    with joined_ranks() as ranks:
        say = console.say if ranks.is_first else lambda text: None
        chosen = parse_step(step)
        folder = find_model_directory(model, chosen)
        say_better_checkpoint(model, chosen, say)
        predictor = Predictor.open(
            folder, overrides or [], set_files or [], precision=cast("InferencePrecision", precision), ranks=ranks
        )
        options = BulkOptions(kind, schema, tuple(null_values or ()), lists_bad=on_bad_data == "list")
        with _explained(options, say), console.predicting() if ranks.is_first else nullcontext() as progress:
            if to_stream:
                with _standard_output() as stream:
                    done = predict_stream(predictor, inputs, stream, options, progress=progress, say=say)
            else:
                done = predict_files(
                    predictor,
                    inputs,
                    Path(output),
                    options,
                    overwrite=overwrite,
                    ranks=ranks,
                    progress=progress,
                    say=say,
                )
        if progress is not None:
            say(progress.summary(done.rows))
    if ranks.is_first:
        if not to_stream:
            verb = "was" if done.before == 1 else "were"
            before = f"; {plural(done.before, 'file')} {verb} complete before" if done.before else ""
            say(f"written: {plural(len(done.files) - done.before, 'file')} in {output}{before}")
        _fail_if_incomplete(
            done, "their rows have no predictions" if to_stream else f"listed in {output}/{ERRORS}.jsonl"
        )


def _kind(text: str | None, *, to_stream: bool) -> "OutputKind":
    """The value of `--format`. Raises InputError."""
    from recap.inference.bulk import KINDS
    from recap.text import suggest

    kind = ("csv" if to_stream else "parquet") if text is None else text
    if kind not in KINDS:
        raise InputError(f"--format: unknown format {kind!r}. {suggest(kind, list(KINDS))}")
    if to_stream and kind == "parquet":
        raise InputError("--format: Parquet cannot be written to a pipe; choose arrow, csv or jsonl, or give a folder")
    return KINDS[kind]


@contextmanager
def _explained(options: "BulkOptions", say: "Say") -> Iterator[None]:
    """Say how to go on past an error about single rows, which is raised."""
    try:
        yield
    except DataError as error:
        if error.rows and not options.lists_bad:
            say("to go on past rows that cannot be scored, add --on-bad-data list")
        raise


@contextmanager
def _standard_output() -> Iterator[BinaryIO]:
    """Standard output for bytes. Its failures are raised, unlike those of `sys.stdout`, which outlasts them."""
    try:
        descriptor = os.dup(sys.stdout.fileno())
    except OSError:  # replaced by a stream in memory, as in tests
        yield sys.stdout.buffer
        return
    stream = os.fdopen(descriptor, "wb")
    try:
        yield stream
    finally:
        with suppress(OSError):
            stream.close()


def _fail_if_incomplete(done: "Predicted", where: str) -> None:
    """Raise RunError, for exit code 1, if anything could not be scored."""
    from recap.text import plural

    parts = [plural(done.unscored, "row")] if done.unscored else []
    parts += [plural(len(done.failed), "file")] if done.failed else []
    if parts:
        raise RunError(f"{' and '.join(parts)} could not be scored: {where}")
