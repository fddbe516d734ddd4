"""`recap compare`: the differences of models from a baseline, on the same rows."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recap.cli.options import Overwrite, check_output, model_files, parse_step, say_better_checkpoint
from recap.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from recap.evaluation.gate import Judgement


def compare(
    baseline: Annotated[
        Path,
        typer.Argument(metavar="BASELINE", help="Run, checkpoint or model directory.", show_default=False),
    ],
    models: Annotated[
        list[Path],
        typer.Argument(
            metavar="MODEL...", help="Runs, checkpoints or model directories to compare with it.", show_default=False
        ),
    ],
    split: Annotated[
        str | None,
        typer.Option(help="Validation set of the baseline to evaluate on; default: the first.", show_default=False),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            metavar="FILES",
            help="Evaluate on these files, URLs or globs instead. May be repeated.",
            show_default=False,
        ),
    ] = None,
    step: Annotated[
        str | None,
        typer.Option(
            metavar="STEP",
            help="Step of the checkpoints of all runs, or 'best' where training.watch is set; default: the latest. "
            "Model directories are taken as they are.",
            show_default=False,
        ),
    ] = None,
    gate: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="YAML file of rules that every model must fulfil; otherwise the exit code is 1.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON file to write, with all differences.", show_default=False)
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Compare models with a baseline: the difference of every metric with its interval, and a verdict.

    All are evaluated on the same rows, so what they share cancels out.
    """
    from recap.evaluation.gate import judge, load_gate

    chosen = parse_step(step)
    rules = load_gate(str(gate)) if gate is not None else None
    if output is not None:
        inputs = [file for path in (baseline, *models) for file in model_files(path)]
        check_output(output, [*inputs, *(data or ()), *([gate] if gate is not None else [])], overwrite=overwrite)

    from recap.cli.terminal.console import Console
    from recap.evaluation.compare_models import compare_models
    from recap.native.allocator import tune_process
    from recap.storage import replace_text

    console = Console()
    tune_process()
    for path in (baseline, *models):
        say_better_checkpoint(path, chosen, console.say)
    compared = compare_models(baseline, models, split, data or (), console.say, step=chosen, gate=rules)
    contents, failed = [], 0
    for name, comparison in compared.comparisons.items():
        console.comparison(f"{name} against {compared.baseline}, {compared.split}", comparison)
        content = {"model": name, "baseline": compared.baseline, "split": compared.split, **comparison.to_json()}
        if rules is not None:
            judgements = judge(rules, comparison)
            content["gate"] = [vars(item) for item in judgements]
            failed += sum(not item.passed for item in judgements)
            for line in _lines(judgements):
                console.say(line)
        contents.append(content)
    if output is not None:
        replace_text(output, json.dumps(contents, indent=1, allow_nan=False) + "\n")
        console.say(f"written: {output}")
    if failed:
        verb = "does" if failed == 1 else "do"
        raise RunError(f"{gate}: the gate is closed: {failed} of its conditions {verb} not hold")


def _lines(judgements: "Sequence[Judgement]") -> list[str]:
    """Each condition, and a summary if all hold."""
    from recap.evaluation.result import SCORE

    lines = [
        f"gate: {'ok   ' if item.passed else 'FAILS'} {'final score' if item.task == SCORE else item.task}: "
        f"{item.metric} {item.actual}, required: {item.condition}"
        for item in judgements
    ]
    if all(item.passed for item in judgements):
        lines.append(f"gate: open, all {len(judgements)} conditions hold")
    return lines
