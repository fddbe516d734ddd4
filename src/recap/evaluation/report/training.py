"""The curves of training: losses, learning rates and evaluations by step, thinned."""

from collections.abc import Sequence
from typing import Any

POINTS = 200
"""Points of a curve, at most."""
_ALL_POINTS = 3000
"""Points of the curves of one kind of all tasks together, at most, unless each then has fewer than `_MIN_POINTS`."""
_MIN_POINTS = 20
EVALUATED = ("auc", "log_loss", "calibration", "xauc", "mae")
"""The metrics with a curve."""


def training_curves(records: Sequence[dict[str, Any]], split: str) -> dict[str, Any]:
    """`losses`, `rates` and `evaluations` of a run, from its `metrics`; empty for a run without records.

    `losses`: {steps, all, tasks: {task: values}}; `rates`: {steps, series: [values], names: {name: index of its
    series}}; `evaluations`, those on `split`: {steps, tasks: {task: {metric: values}}}.
    """
    tasks = len({record["task"] for record in records if "task" in record})
    points = max(_MIN_POINTS, min(POINTS, _ALL_POINTS // max(tasks, 1)))
    logged = thinned([record for record in records if record.get("split") == "train"], points)
    steps = [record["step"] for record in logged]
    curves: dict[str, Any] = {}
    if logged:
        curves["losses"] = {
            "steps": steps,
            "all": [rounded(record.get("loss")) for record in logged],
            "tasks": _columns(logged, "loss/"),
        }
        if rates := _columns(logged, "rate/"):
            series = list(dict.fromkeys(map(tuple, rates.values())))  # most parts share one
            names = {name: series.index(tuple(values)) for name, values in rates.items()}
            curves["rates"] = {"steps": steps, "series": list(map(list, series)), "names": names}
    evaluated = [record for record in records if record.get("split") == split and "task" in record]
    if evaluated:
        curves["evaluations"] = _evaluations(evaluated, points)
    return curves


def _evaluations(records: Sequence[dict[str, Any]], points: int) -> dict[str, Any]:
    steps = thinned(sorted({record["step"] for record in records}), points)
    by_task: dict[str, dict[int, dict[str, Any]]] = {}
    for record in records:
        by_task.setdefault(record["task"], {})[record["step"]] = record
    tasks = {
        task: {
            name: [rounded(by_step.get(step, {}).get(name)) for step in steps]
            for name in EVALUATED
            if any(name in record for record in by_step.values())
        }
        for task, by_step in by_task.items()
    }
    return {"steps": steps, "tasks": tasks}


def _columns(records: Sequence[dict[str, Any]], prefix: str) -> dict[str, list[float | None]]:
    names = dict.fromkeys(name for record in records for name in record if name.startswith(prefix))
    return {name.removeprefix(prefix): [rounded(record.get(name)) for record in records] for name in names}


def thinned(values: Sequence[Any], points: int) -> list[Any]:
    """At most `points` of the values, spread evenly, with the first and the last."""
    if len(values) <= points:
        return list(values)
    return [values[index * (len(values) - 1) // (points - 1)] for index in range(points)]


def rounded(value: Any) -> Any:
    """Numbers with five digits, also those within mappings and lists; None for everything else."""
    if isinstance(value, dict):
        return {name: rounded(item) for name, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return float(f"{value:.5g}") if isinstance(value, int | float) else None
