"""`recap report`: evaluates a checkpoint, and a baseline on the same rows, and writes the report."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recap.config.recap import RecapConfig
from recap.errors import InputError
from recap.evaluation.checks.finding import Finding
from recap.evaluation.compare import Comparison, compare, few_buckets
from recap.evaluation.observers.curves import Curves
from recap.evaluation.observers.score import SampledLists
from recap.evaluation.report.card import model_card
from recap.evaluation.report.content import Content
from recap.evaluation.report.facts import config_changes, facts
from recap.evaluation.report.page import check_installed, page
from recap.evaluation.report.results import task_results, verdict
from recap.evaluation.report.sections import NO_SECTIONS, sampled_sections
from recap.evaluation.report.training import rounded, training_curves
from recap.evaluation.result import SplitResult
from recap.evaluation.run import chosen_split
from recap.evaluation.sides import Side, common_tasks, evaluated, is_run, side_config
from recap.reporting import Say, say_to_stderr
from recap.runs import BEST, Run, Step
from recap.runtime import Runtime, start_runtime
from recap.storage import check_local, replace_text
from recap.text import shorten

PAGE, NUMBERS, CARD = "index.html", "report.json", "model_card.md"
"""The files of a report."""


def report(
    run: Path,
    baseline: Path | None = None,
    split: str | None = None,
    step: Step | None = None,
    output: Path | None = None,
    say: Say = say_to_stderr,
    *,
    quick: bool = False,
) -> tuple[Path, Sequence[Finding]]:
    """Write the report of `run` on a validation set, by default the first, into `output`.

    Returns the page, and the checks that failed.

    `step`: the checkpoint of `run`; "best" applies to `baseline` too, if it is a run that has one. `output`: by default
    `report` in the run. `quick`: without the sections that score further rows. Raises InputError if the extra `report`
    is not installed, if `output` holds files that no report wrote, or for a model directory without `output`.
    """
    check_installed()
    side = Side.open(run, step)
    folder = _folder(side, output)
    other, remarks = _open_baseline(baseline, step) if baseline is not None else (None, [])
    for remark in remarks:
        say(remark)
    content = gather(side, other, split, say, remarks, quick=quick)
    folder.mkdir(parents=True, exist_ok=True)
    replace_text(folder / NUMBERS, json.dumps(content.to_json(), indent=1, allow_nan=False, ensure_ascii=False) + "\n")
    replace_text(folder / CARD, model_card(content))
    replace_text(folder / PAGE, page(content))
    return folder / PAGE, content.findings


def _open_baseline(path: Path, step: Step | None) -> tuple[Side, list[str]]:
    """The best checkpoint of a run if `step` is "best", else its latest, or a model directory; and remarks on it."""
    if step != BEST or not is_run(path):
        return Side.open(path), []
    if Run(path).best is not None:
        return Side.open(path, BEST), []
    latest = Side.open(path)
    return latest, [f"The baseline has no best checkpoint, since it watched no metric; compared is {latest.name}."]


def gather(
    side: Side, baseline: Side | None, split: str | None, say: Say, remarks: Sequence[str] = (), *, quick: bool = False
) -> Content:
    """Evaluate `side`, and `baseline` on the same rows. Raises ConfigError for an unknown split.

    `remarks`: those that the content holds first.
    """
    config = side.config
    name = chosen_split(config, split)
    runtime = start_runtime()
    tasks = common_tasks(side, baseline)
    own = side_config(side, config.model_copy(update={"slices": "auto"}), name, tasks)
    curves, lists = Curves(own, name, runtime.ranks), SampledLists(own, runtime.ranks)
    result = evaluated(side, own, name, runtime, say, [curves, lists])
    shown, comparison, theirs = {"model": _plain_curves(curves)}, None, None
    if baseline is not None:
        theirs, comparison, shown["baseline"] = _compared(baseline, config, name, tasks, result, runtime, say)
    users = result.users if own.features.user is not None else 0
    rows, score = task_results(result, theirs, comparison, config.regressions)
    sections = NO_SECTIONS if quick else sampled_sections(side, own, name, result, runtime, say)
    sample = lists.result()
    return Content(
        title=side.path.resolve().name,
        model=side.folder.name,
        split=name,
        rows=_rows(result),
        users=users,
        verdict=verdict(comparison, rows, users),
        tasks=rows,
        score=score,
        baseline=baseline.name if baseline is not None else "",
        remarks=[*remarks, *_remarks(side, baseline, result, users), *sections.remarks],
        findings=sections.findings,
        checked=not quick,
        training=_training(side, baseline, name),
        curves=shown,
        uncalibrated=result.uncalibrated,
        strata=result.strata,
        slices=result.slices.to_json() if result.slices is not None else {},
        importance=sections.importance,
        value_importance=sections.value_importance,
        gates=result.gates,
        conflicts=result.conflicts or sections.conflicts,
        drift=sections.drift,
        what_if=sample.to_json() if sample is not None else {},
        config_changes=config_changes(baseline.model.config, side.model.config) if baseline is not None else (),
        facts=facts(side, baseline, config, name, sections.window, runtime),
    )


def _compared(
    baseline: Side,
    config: RecapConfig,
    split: str,
    tasks: Sequence[str],
    result: SplitResult,
    runtime: Runtime,
    say: Say,
) -> tuple[SplitResult, Comparison, dict[str, Any]]:
    """The result of the baseline, its comparison with `result`, and its curves."""
    own = side_config(baseline, config, split, tasks)
    curves = Curves(own, split, runtime.ranks)
    theirs = evaluated(baseline, own, split, runtime, say, [curves])
    return theirs, compare(theirs, result), _plain_curves(curves)


def _plain_curves(curves: Curves) -> dict[str, Any]:
    curves_of: dict[str, Any] = rounded({task: each.to_json() for task, each in curves.result().items()})
    return curves_of


def _training(side: Side, baseline: Side | None, split: str) -> dict[str, Any]:
    """The curves of training of the sides that are runs."""
    sides = {"model": side} | ({"baseline": baseline} if baseline is not None else {})
    curves = {name: training_curves(each.records(), split) for name, each in sides.items()}
    return {name: each for name, each in curves.items() if each}


def _folder(side: Side, output: Path | None) -> Path:
    """The folder to write. Raises InputError unless it is new, empty of pages, or holds a report."""
    if output is None and not side.is_run:
        raise InputError(f"{side.path}: is a model directory, whose files must not change; add --output DIR")
    folder = output if output is not None else Run(side.path).report
    check_local(folder)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--output: {folder} is not a folder; choose another --output")
    if not (folder / NUMBERS).exists():
        for name in (PAGE, CARD):
            if (folder / name).exists():
                raise InputError(f"--output: {folder / name} exists, and no report wrote it; choose another --output")
    return folder


def _rows(result: SplitResult) -> int:
    counts = [metrics.get("count", math.nan) for metrics in result.metrics.values()]
    return int(max((count for count in counts if math.isfinite(count)), default=0))


def _remarks(side: Side, baseline: Side | None, result: SplitResult, users: int) -> list[str]:
    remarks = []
    if not users:
        remarks.append("Without features.user, intervals take each row as a user of its own.")
    elif few_buckets(result):
        remarks.append("So few users that the intervals themselves are uncertain.")
    if baseline is not None:
        ours, others = side.model.config.tasks, baseline.model.config.tasks
        for whose, only in (
            ("this model", [task for task in ours if task not in others]),
            ("the baseline", [task for task in others if task not in ours]),
        ):
            if only:
                remarks.append(f"Left out, because only {whose} predicts it: {shorten(', '.join(only), 200)}.")
    return remarks
