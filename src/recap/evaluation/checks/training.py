"""Checks of the training: its losses, its gradients, and settings at their edge."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from recap.config.evaluation.metrics import LOWER_IS_BETTER
from recap.evaluation.checks.evidence import Evidence
from recap.evaluation.checks.finding import Finding, finding

_MIN_RECORDS = 20
"""Records of the training loss without which its course is not judged."""
_ENDED = 0.05
"""Share of the highest learning rate below which a schedule has ended."""
_CONFLICT = -0.1


def loss_still_falling(evidence: Evidence) -> Iterator[Finding]:
    """R012."""
    losses = _losses(evidence.records)
    if len(losses) < _MIN_RECORDS or _rate_has_ended(evidence.records):
        return
    tenth = max(len(losses) // 10, 5)
    before, last = losses[-2 * tenth : -tenth], losses[-tenth:]
    fall = before.mean() - last.mean()
    error = math.sqrt(before.var(ddof=1) / len(before) + last.var(ddof=1) / len(last))
    if fall > 3 * error and fall > 0.002 * abs(before.mean()):
        yield finding(
            "R012",
            "",
            f"the training loss is still falling: {before.mean():.5f}, then {last.mean():.5f} in the last tenth of the "
            "steps",
        )


def loss_long_flat(evidence: Evidence) -> Iterator[Finding]:
    """R013."""
    losses = _losses(evidence.records)
    if len(losses) < 2 * _MIN_RECORDS:
        return
    quarter = len(losses) // 4
    before, last = losses[-2 * quarter : -quarter], losses[-quarter:]
    first = losses[:quarter]
    error = math.sqrt(before.var(ddof=1) / quarter + last.var(ddof=1) / quarter)
    fell = first.mean() - before.mean()
    if fell > 5 * error and before.mean() - last.mean() < max(0.002 * fell, -error) and error < 0.02 * fell:
        yield finding(
            "R013",
            "",
            f"the training loss has not fallen in the last half of the steps: {before.mean():.5f}, then "
            f"{last.mean():.5f}",
        )


def gradient_conflict(evidence: Evidence) -> Iterator[Finding]:
    """R014: a task against which the others pull, on average."""
    conflicts = evidence.conflicts or evidence.result.conflicts
    for task, others in conflicts.items():
        values = [value for other, value in others.items() if other != task and math.isfinite(value)]
        if values and sum(values) / len(values) < _CONFLICT:
            worst = min((other for other in others if other != task), key=lambda other: _or_zero(others[other]))
            yield finding(
                "R014",
                task,
                f"the gradients of {task} point against those of the other tasks: mean cosine "
                f"{sum(values) / len(values):.2f}, {others[worst]:.2f} with {worst}",
            )


def settings_at_their_edge(evidence: Evidence) -> Iterator[Finding]:
    """R018."""
    yield from _best_evaluation(evidence)
    training, optimizer = evidence.config.training, evidence.config.optimizer
    steps = training.num_train_steps
    rates = {"optimizer.backbone": optimizer.backbone}
    rates |= {f"optimizer.towers.{name}": rate for name, rate in optimizer.towers.items()}
    for name, rate in rates.items():
        ramp, final = getattr(rate, "num_ramp_steps", 0), getattr(rate, "final_num_steps", None)
        if ramp >= steps:
            yield finding("R018", name, f"{name} ramps up for {ramp:,} steps, and the run has {steps:,}")
        elif final is not None and final > 1.5 * steps:
            yield finding("R018", name, f"{name} falls until step {final:,}, and the run ends at {steps:,}")
    if training.ema is not None and 1 / max(1 - training.ema.decay, 1e-12) > steps / 2:
        horizon = 1 / max(1 - training.ema.decay, 1e-12)
        yield finding(
            "R018", "training.ema", f"training.ema averages over some {horizon:,.0f} steps, and the run has {steps:,}"
        )


def _best_evaluation(evidence: Evidence) -> Iterator[Finding]:
    """The watched metric, or the mean AUC, was best at the first or the last of at least four evaluations."""
    watch = evidence.config.training.watch
    metric = watch.metric if watch is not None else "auc"
    split = watch.split if watch is not None else evidence.split
    by_step: dict[int, list[float]] = {}
    for record in evidence.records:
        value = record.get(metric)
        tasks = watch.tasks if watch is not None else None
        if record.get("split") == split and isinstance(value, float) and (not tasks or record.get("task") in tasks):
            by_step.setdefault(int(record["step"]), []).append(value)
    if len(by_step) < 4:
        return
    sign = -1 if metric in LOWER_IS_BETTER else 1
    best = max(by_step, key=lambda step: sign * float(np.mean(by_step[step])))
    steps = sorted(by_step)
    if best == steps[0]:
        text = f"{metric} on {split} was best at the first evaluation, step {best:,} of {steps[-1]:,}"
        yield finding("R018", "training.num_train_steps", text, "warning")
    elif best == steps[-1] and not _rate_has_ended(evidence.records):
        text = (
            f"{metric} on {split} was best at the last evaluation, step {best:,}, and the learning rate has not ended"
        )
        yield finding("R018", "training.num_train_steps", text)


def _losses(records: Sequence[Mapping[str, Any]]) -> Any:
    """The training losses in order, float64 [N]."""
    values = [record["loss"] for record in records if isinstance(record.get("loss"), float)]
    return np.array([value for value in values if math.isfinite(value)])


def _rate_has_ended(records: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a learning rate that fell has come near its end."""
    rates = [record["rate/backbone"] for record in records if isinstance(record.get("rate/backbone"), float)]
    return bool(rates) and rates[-1] < _ENDED * max(rates)


def _or_zero(value: float) -> float:
    return value if math.isfinite(value) else 0.0
