"""`recap evaluate`: metrics of a trained model on the validation sets."""

import os
import shlex
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recap.cli.options import (
    NullValues,
    Overrides,
    Overwrite,
    SchemaFile,
    SetFiles,
    Source,
    StepOption,
    check_output,
    config_file,
    in_several_processes,
    load_to_evaluate,
    parse_step,
    say_better_checkpoint,
)
from recap.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from recap.cli.terminal.console import Console
    from recap.config.recap import RecapConfig
    from recap.evaluation.asked import Asked
    from recap.evaluation.result import EvaluationReport
    from recap.runs import Step


def evaluate(
    source: Source,
    overrides: Overrides = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            metavar="FILES",
            help="Evaluate these files, URLs or globs instead of the validation sets. May be repeated.",
            show_default=False,
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="Name of a validation set; default: all. With --data: the set whose labels and rates apply; default: "
            "the first.",
            show_default=False,
        ),
    ] = None,
    step: StepOption = None,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="JSON file to write; default: evaluation.json in the run, but none with --data or overrides.",
            show_default=False,
        ),
    ] = None,
    overwrite: Overwrite = False,
    schema: SchemaFile = None,
    null_values: NullValues = None,
    follow: Annotated[
        bool,
        typer.Option("--follow", help="Evaluate every checkpoint of a run as it appears, until training has finished."),
    ] = False,
    timeout: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="With --follow: stop after this many seconds without a new checkpoint; default: no limit.",
            show_default=False,
        ),
    ] = None,
    slices: Annotated[
        bool,
        typer.Option("--slices", help="Find the values of columns where the model does worse than elsewhere."),
    ] = False,
    drift: Annotated[
        bool,
        typer.Option("--drift", help="Compare features, predictions and labels with a sample of the training rows."),
    ] = False,
    set_files: SetFiles = None,
) -> None:
    """Evaluate a run on its validation sets, or on other files.

    Prints a table, and writes all metrics to evaluation.json in the run. Results of other files or with overrides are
    written only with --output.
    """
    _check_options(
        follow=follow,
        timeout=timeout,
        step=step,
        data=data,
        output=output,
        looks={"--slices": slices, "--drift": drift},
    )
    for option, value in (("--schema", schema), ("--null-value", null_values)):
        if value and not data:
            raise InputError(f"{option}: requires --data; add --data, or leave out {option}")
    overrides, data = _sorted_arguments(overrides or [], data or [])
    # A run to follow may not exist yet.
    run = source if source.is_dir() or (follow and source.suffix not in (".yaml", ".yml")) else None

    def load() -> "RecapConfig":
        return load_to_evaluate(source, overrides, set_files or [], is_run=run is not None)

    if follow:
        _follow(load, run or Path(load().training.save_dir), split, timeout)
        return
    config = load()
    if output is not None:
        inputs: list[str | Path] = [config_file(source), *(set_files or []), *_data_files(config, data, split)]
        _prepare(output, inputs, run or Path(config.training.save_dir), overwrite=overwrite)

    from recap.evaluation.asked import Asked
    from recap.runs import Run

    if run is None and not Run(config.training.save_dir).checkpoints:
        raise InputError(
            f"{config.training.save_dir}: no checkpoint of this configuration yet; train it first: "
            f"recap train {shlex.quote(str(source))}"
        )
    options = {"--set-file": set_files, "--null-value": null_values}
    recorded = [f"{option} {value}" for option, values in options.items() for value in values or []] + overrides
    asked = Asked(tuple(data), schema, tuple(null_values or ()), tuple(recorded))
    config = config.model_copy(update={"slices": "auto"}) if slices else config
    _evaluate(config, run or Path(config.training.save_dir), split, parse_step(step), asked, output, with_drift=drift)


def _sorted_arguments(arguments: list[str], data: list[str]) -> tuple[list[str], list[str]]:
    """The overrides among `arguments`, and all files to evaluate. Raises InputError for other arguments."""
    if runs := [text for text in arguments if _is_source(text)]:
        raise InputError(
            f"unexpected argument {runs[0]!r}: evaluate one run at a time; docs/comparing.md shows how to compare runs"
        )
    if data:  # a glob that the shell expanded
        files = [*data, *(text for text in arguments if "=" not in text or os.path.exists(text))]
        return [text for text in arguments if text not in files], files
    if files := [text for text in arguments if "=" not in text and os.path.exists(text)]:
        raise InputError(f"unexpected argument {files[0]!r}; to evaluate files, write --data {files[0]}")
    return arguments, []


def _is_source(text: str) -> bool:
    """Whether an argument is a run or a configuration file."""
    from recap.runs import Run

    file = Path(text) if text.endswith((".yaml", ".yml")) else Run(text).config_file
    return "=" not in text and os.path.exists(file)


def _check_options(
    *,
    follow: bool,
    timeout: float | None,
    step: str | None,
    data: list[str] | None,
    output: Path | None,
    looks: dict[str, bool],
) -> None:
    """Raise InputError for options that exclude each other. `looks`: further results, by option."""
    if follow and in_several_processes():
        raise InputError(
            "--follow: evaluates in one process, since the training deletes old checkpoints; run it without torchrun"
        )
    if timeout is not None and not follow:
        raise InputError("--timeout: requires --follow; add --follow, or leave out --timeout")
    if step is not None and follow:
        raise InputError("--step: --follow evaluates every checkpoint; leave out one of the two")
    for name in (name for name, is_on in looks.items() if is_on and follow):
        raise InputError(f"{name}: --follow measures only metrics; leave out one of the two")
    for name, value in (("--data", data), ("--output", output)):
        if follow and value:
            raise InputError(f"{name}: --follow evaluates the validation sets only; leave out one of the two")


def _data_files(config: "RecapConfig", data: list[str], split: str | None) -> list[str]:
    """The files to evaluate; empty if they cannot be listed."""
    from recap.data.formats.files import find_files

    files: list[str] = []
    sets = [value.source.inputs for name, value in config.validation_data.items() if split in (None, name)]
    for inputs in [data] if data else sets:
        with suppress(InputError):
            files += find_files(inputs)
    return files


def _prepare(output: Path, inputs: "list[str | Path]", run: Path, *, overwrite: bool) -> None:
    """Create the folder of the output, and of the estimates beside it.

    Raises InputError for one of `inputs`, and for the records of `run`.
    """
    from recap.data.tools.outputs import check_folder
    from recap.evaluation.result import estimates_file
    from recap.runs import Run

    used, beside = Run(run), estimates_file(output)
    if beside == output:
        raise InputError(f"--output: {output} is the file of the estimates; name a JSON file, which they lie beside")
    for file in (output, beside):
        check_output(file, [*inputs, used.metrics_file, used.evaluations_file], overwrite=overwrite)
    check_folder(output.parent)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output: cannot create {output.parent} ({error.strerror}); choose another") from None


def _evaluate(
    config: "RecapConfig",
    run: Path,
    split: str | None,
    step: "Step | None",
    asked: "Asked",
    output: Path | None,
    *,
    with_drift: bool,
) -> None:
    """Evaluate one checkpoint and print the results."""
    from recap.cli.terminal.console import Console
    from recap.evaluation.run import evaluate_run, result_file
    from recap.native.allocator import tune_process
    from recap.rendezvous import joined_ranks

    file = result_file(run, asked, output)
    if file is not None and file.parent.is_dir() and not os.access(file.parent, os.W_OK):
        raise InputError(f"{file.parent}: cannot be written to; write the result elsewhere with --output FILE")
    console = Console()
    tune_process()
    with joined_ranks() as ranks:
        if ranks.is_first:
            say_better_checkpoint(run, step, console.say)
        report = evaluate_run(
            config, run, split, step, console.say, asked=asked, output=output, with_drift=with_drift, ranks=ranks
        )
    if not ranks.is_first:
        return
    _show(report, console)
    if file is not None:
        console.say(f"written: {file}")
        return
    reasons = {"these are other files": asked.data, "there are overrides": asked.overrides}
    reason = next((text for text, applies in reasons.items() if applies), "this is a model directory")
    console.say(f"not saved, because {reason}; to save it, add --output FILE")


def _show(report: "EvaluationReport", console: "Console") -> None:
    from recap.evaluation.result import SCORE
    from recap.text import plural

    for name, result in report.splits.items():
        users = f", {plural(result.users, 'user')}" if result.users else ""
        console.table(f"{name}, {report.model}{users}", result.metrics, result.intervals)
        if result.uncalibrated:
            console.uncalibrated(
                f"{name}, probabilities before → after calibration", result.uncalibrated, result.metrics
            )
        if result.score:
            console.score(f"final score, {name}", result.score, result.intervals.get(SCORE, {}))
        else:
            console.say("no metrics of the final score, because scoring.weights is empty")
        for stratum, metrics in result.strata.items():
            console.stratum(stratum, metrics)
        console.fields(f"Field-RCE, {name}", result.metrics, result.intervals)
        if result.slices is not None:
            console.slices(name, result.slices)
        if result.drift is not None:
            console.drift(name, result.drift)
        if result.gates:
            console.gates(f"gates, {name}", result.gates)
        if result.conflicts:
            console.conflicts(f"{name}, cosine similarity of the tasks' gradients", result.conflicts)


def _follow(load: "Callable[[], RecapConfig]", run: Path, split: str | None, timeout: float | None) -> None:
    """Evaluate each checkpoint as it appears."""
    from recap.cli.terminal.console import Console
    from recap.evaluation.follow import follow
    from recap.native.allocator import tune_process
    from recap.tracking.open import open_evaluation_tracker

    console = Console()
    tune_process()
    file = follow(load, run, console, split, timeout, lambda run, step: open_evaluation_tracker(run, step, console.say))
    console.say(f"finished: {run}; written: {file}")
