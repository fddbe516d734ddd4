"""What a board shows: `board.md` for readers, `board.json` for programs."""

import json
import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

from recap.boards.plan import Plan
from recap.boards.results import MEAN, Change, Results, changes
from recap.config.evaluation.board import BoardConfig
from recap.config.evaluation.metrics import SPECS
from recap.evaluation.plain import to_plain
from recap.text import duration, plural, shorten


def page(plan: Plan, results: Results, command: str) -> str:
    """The board as Markdown: a table of values and one of differences for each metric, then what the runs took."""
    board, parts = plan.config, [f"## {plan.config.title}"]
    for metric in board.metrics:
        parts.append(values_table(board, results, metric))
        if board.baseline is not None:
            parts.append(_differences(plan, results, metric, board.baseline))
    if any(row.finished for row in results.rows.values()):
        parts.append(_costs(results))
    lines = [f"Failed: {name}: {shorten(' '.join(reason.split()), 300)}" for name, reason in results.failures.items()]
    if results.missing:
        lines.append(f"Not run yet: {results.missing} of {plural(results.planned, 'run')}.")
    parts += lines
    parts.append("\n".join([f"Written by `{command}`.", *_environments(results), *_choice(plan), *_notes(results)]))
    return "\n\n".join(part for part in parts if part) + "\n"


def content(plan: Plan, results: Results, command: str) -> str:
    """The same as JSON, with every run."""
    board = plan.config
    rows: dict[str, Any] = {}
    for name, row in results.rows.items():
        stated = board.rows[name]
        rows[name] = {
            "config": stated.config,
            "rival": stated.rival.kind if stated.rival is not None else None,
            "runs": {
                str(seed): {**to_plain(run.record), "users": run.result.users, "metrics": to_plain(run.result.metrics)}
                for seed, run in row.finished.items()
            },
            "failed": {str(seed): reason for seed, reason in row.failed.items()},
            "differences": {metric: to_plain(_changes(board, results, metric, name)) for metric in board.metrics},
        }
    values = {
        "title": board.title,
        "command": command,
        "split": board.split,
        "tasks": board.tasks,
        "mean_of": board.averaged,
        "metrics": board.metrics,
        "seeds": board.seeds,
        "baseline": board.baseline,
        "floors": board.floors,
        "rows": rows,
        "missing": results.missing,
    }
    return json.dumps(values, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def columns_of(board: BoardConfig) -> list[str]:
    """The columns of values: the tasks, and their mean if the board shows it."""
    return [*board.tasks, *([MEAN] if board.averaged else [])]


def values_table(board: BoardConfig, results: Results, metric: str) -> str:
    """Mean ± sample standard deviation over seeds, of each task and of their mean."""
    columns = columns_of(board)
    lines = _heading([SPECS[metric].title, "seeds", *columns])
    for name, values in floors_of(board, metric).items():
        lines.append(_line([name, "", *(_number(metric, values.get(column)) for column in columns)]))
    for name, row in results.rows.items():
        if row.finished:
            of_seeds = row.values(board, metric)
            lines.append(_line([name, str(len(row.finished)), *(_over_seeds(metric, of_seeds[it]) for it in columns)]))
        elif row.failed:
            lines.append(_line([name, "failed", *("" for _ in columns)]))
    return "\n".join(lines)


def floors_of(board: BoardConfig, metric: str) -> dict[str, dict[str, float]]:
    """Name of a floor with values of this metric → its values by column, with their mean if all its tasks have one."""
    floors: dict[str, dict[str, float]] = {}
    for name, metrics in board.floors.items():
        if values := metrics.get(metric):
            averaged = [values[task] for task in board.averaged if task in values]
            is_whole = averaged and len(averaged) == len(board.averaged)
            floors[name] = values | ({MEAN: fmean(averaged)} if is_whole else {})
    return floors


def _changes(board: BoardConfig, results: Results, metric: str, name: str) -> dict[str, Change] | None:
    """The differences of a row from the baseline; None where there are none."""
    baseline = results.rows.get(board.baseline or "")
    row = results.rows[name]
    if baseline is None or name == board.baseline or not baseline.finished or not row.finished:
        return None
    return changes(board, row, baseline, metric)


def _differences(plan: Plan, results: Results, metric: str, baseline: str) -> str:
    """The table of differences; empty before there is one."""
    board = plan.config
    columns, lines = columns_of(board), list[str]()
    for name, row in results.rows.items():
        of_row = _changes(board, results, metric, name)
        if of_row is not None:
            lines.append(_line([name, *(difference_text(metric, of_row.get(column)) for column in columns)]))
        elif name != baseline and row.finished and results.rows[baseline].finished:
            lines.append(_line([name, "evaluated on other rows", *("" for _ in columns[1:])]))
    if not lines:
        return ""
    users = "users" if all(job.config.features.user is not None for job in plan.jobs) else "rows"
    seeds = any(len(row.finished) > 1 for row in results.rows.values())
    over = f"over {users} and seeds" if seeds else f"over {users}, not seeds"
    text = f"Difference from {baseline} [95% interval {over}]; bold where the interval excludes 0:"
    return "\n".join([text, "", *_heading([SPECS[metric].title, *columns]), *lines])


def difference_text(metric: str, change: Change | None) -> str:
    """`value [low, high]`, bold if the interval excludes 0; the value alone if it has no interval."""
    if change is None or math.isnan(change.value):
        return "-"
    value, low, high = (
        format(number, f"+{SPECS[metric].format}") for number in (change.value, change.low, change.high)
    )
    if math.isnan(change.low):  # of a single bucket of users
        return value
    text = f"{value} [{low}, {high}]"
    return f"**{text}**" if change.is_certain else text


def _costs(results: Results) -> str:
    """What the runs of each row took, as means over seeds."""
    lines = _heading(["row", "time to train", "examples/s", "parameters"])
    for name, row in results.rows.items():
        if row.finished:
            seconds = [record.seconds for record in row.records if record.seconds is not None]
            speeds = [record.examples_per_second for record in row.records if record.examples_per_second is not None]
            counts = {record.parameters for record in row.records if record.parameters is not None}
            cells = [duration(fmean(seconds)) if seconds else "-", f"{fmean(speeds):,.0f}" if speeds else "-"]
            lines.append(_line([name, *cells, " to ".join(f"{count:,}" for count in sorted(counts)) or "-"]))
    return "\n".join(lines)


def _environments(results: Results) -> list[str]:
    """Where and when the runs were trained: a sentence for each machine and version."""
    dates: dict[str, list[str]] = {}
    for row in results.rows.values():
        for record in row.records:
            if record.environment is not None and record.finished is not None:
                dates.setdefault(record.environment.text(), []).append(record.finished)
    lines = []
    for environment, finished in dates.items():
        first, last = min(finished), max(finished)
        time = first if first == last else f"{first} to {last}"
        lines.append(f"{plural(len(finished), 'run')} on {environment}; {time}.")
    return lines


def _choice(plan: Plan) -> list[str]:
    """A remark if the rows that the board shows decided which checkpoints it shows."""
    watches = [job.config.training.watch for job in plan.jobs if job.rival is None and plan.config.best]
    if any(watch is not None and watch.split == plan.config.split for watch in watches):
        return [
            f"The best checkpoints were chosen by {plan.config.split} itself, so their values are a little too good."
        ]
    return []


def _notes(results: Results) -> list[str]:
    """What records say of their rows."""
    notes = {name: list(dict.fromkeys(record.note for record in row.records)) for name, row in results.rows.items()}
    return [f"{name}: {note}." for name, listed in notes.items() for note in listed if note]


def _over_seeds(metric: str, values: Sequence[float]) -> str:
    """`mean ± sample standard deviation`; of a single value, the value."""
    if any(map(math.isnan, values)):
        return "-"
    text = _number(metric, fmean(values))
    return f"{text} ± {_number(metric, stdev(values))}" if len(values) > 1 else text


def _number(metric: str, value: float | None) -> str:
    return "" if value is None else format(value, SPECS[metric].format)


def _heading(names: Sequence[str]) -> list[str]:
    return [_line(names), "|---|" + "---|" * (len(names) - 1)]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
