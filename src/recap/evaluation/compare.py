"""Compares two models on the same rows: the difference of every metric, and a verdict."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from recap.config.evaluation.metrics import LOWER_IS_BETTER, METRICS, SPECS, spec_of
from recap.errors import InputError
from recap.evaluation.metrics.estimate import FEW_BUCKETS, Difference, Estimate, difference, holm, mean_of
from recap.evaluation.plain import to_plain
from recap.evaluation.result import SCORE, SplitResult
from recap.text import plural

Outcome = Literal["better", "worse", "mixed", "cannot be told"]
_LEVEL = 0.05
"""The chance with which a verdict claims a change where there is none, by the mean."""
_ALONE = _LEVEL / 10
"""The same by single tasks, where the mean did not move."""


@dataclass(frozen=True)
class Verdict:
    """Whether a model is better than its baseline."""

    outcome: Outcome
    text: str
    """A sentence with the difference and the number of users."""


@dataclass(frozen=True)
class Comparison:
    """A model against a baseline, on the same rows of a split."""

    users: int
    baseline: Mapping[str, Mapping[str, float]]
    """Task → metric → value of the baseline, for the tasks that both models have."""
    candidate: Mapping[str, Mapping[str, float]]
    """The same of the model."""
    differences: Mapping[str, Mapping[str, Difference]]
    """Task → metric → model minus baseline, for metrics with intervals; `SCORE` is the final score."""
    mean: Difference | None
    """Of the headline metric, over the tasks that have it; None if no task has it."""
    verdict: Verdict
    score: Mapping[str, float] = field(default_factory=dict)
    """The metrics of the final score of the model; empty unless both models weigh the tasks alike."""
    left_out: tuple[str, ...] = ()
    """The tasks that only one of the models has."""

    def to_json(self) -> dict[str, Any]:
        """Plain values; undefined numbers are null."""
        content = {
            "verdict": self.verdict.outcome,
            "text": self.verdict.text,
            "users": self.users,
            "mean_auc": to_plain(self.mean),
            "differences": to_plain(self.differences),
        }
        return content | ({"left_out": list(self.left_out)} if self.left_out else {})


def compare(baseline: SplitResult, candidate: SplitResult) -> Comparison:
    """`candidate` against `baseline`. Raises InputError if they are results of different rows, or without intervals."""
    if not baseline.estimates or not candidate.estimates:
        raise InputError("an evaluation without intervals cannot be compared; run 'recap evaluate' again")
    if not _have_the_same_rows(baseline, candidate):
        raise InputError(
            "the models were evaluated on different rows, or with different labels or weights; evaluate both on the "
            "same files: --data FILES"
        )
    tasks = [task for task in candidate.estimates if task in baseline.estimates]
    if not [task for task in tasks if task != SCORE]:
        raise InputError("the models have no task in common, so there is nothing to compare")
    if not _have_the_same_engagement(baseline.score, candidate.score):
        tasks = [task for task in tasks if task != SCORE]
    differences = {task: _differences(baseline.estimates[task], candidate.estimates[task]) for task in tasks}
    names = [task for task in tasks if task != SCORE]
    only_one = {*baseline.metrics} ^ {*candidate.metrics}
    mean = _mean_difference(baseline, candidate, names)
    return Comparison(
        candidate.users,
        {task: baseline.metrics[task] for task in names},
        {task: candidate.metrics[task] for task in names},
        differences,
        mean,
        _verdict(differences, mean, candidate.users),
        candidate.score if SCORE in tasks else {},
        tuple(sorted(only_one)),
    )


def _have_the_same_rows(one: SplitResult, other: SplitResult) -> bool:
    """Whether the rows of the tasks that both have are equal."""
    tasks = one.rows_by_task.keys() & other.rows_by_task.keys()
    if tasks:
        return all(one.rows_by_task[task] == other.rows_by_task[task] for task in tasks)
    return one.rows == other.rows


def _have_the_same_engagement(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    """Whether both scores weigh the labels alike; else theirs are metrics of different things.

    The mean engagement of a random order depends on labels and weights alone.
    """
    return one.keys() == other.keys() and all(
        math.isclose(one[name], other[name], rel_tol=1e-6, abs_tol=1e-12) or one[name] != one[name]
        for name in one
        if name.startswith(("random_", "best_"))
    )


def gain(metric: str, value: float) -> float:
    """A difference of `metric` with the sign of an improvement."""
    return -value if metric in LOWER_IS_BETTER else value


def _differences(baseline: Mapping[str, Estimate], candidate: Mapping[str, Estimate]) -> dict[str, Difference]:
    shared = [name for name in candidate if name in baseline]
    return {name: difference(candidate[name], baseline[name]) for name in shared}


def headline_of(metrics: Iterable[str]) -> str | None:
    """The metric by which a task is judged: AUC, or XAUC of a regression."""
    present = set(metrics)
    return next((spec.name for spec in METRICS if spec.headline and spec.name in present), None)


def _mean_difference(baseline: SplitResult, candidate: SplitResult, tasks: Iterable[str]) -> Difference | None:
    """The difference of the mean headline metric, over the tasks in which both models have it."""
    pairs = []
    for task in tasks:
        name = headline_of(candidate.estimates[task])
        if name is not None and name in baseline.estimates[task]:
            pair = candidate.estimates[task][name], baseline.estimates[task][name]
            if all(math.isfinite(estimate.value) and math.isfinite(estimate.standard_error) for estimate in pair):
                pairs.append(pair)
    buckets = {estimate.buckets for pair in pairs for estimate in pair}
    if not pairs or len(buckets) > 1:  # tasks whose rows lie in different buckets have no common mean
        return None
    return difference(mean_of(one for one, _ in pairs), mean_of(other for _, other in pairs))


def _verdict(differences: Mapping[str, Mapping[str, Difference]], mean: Difference | None, users: int) -> Verdict:
    """The verdict by the mean of the headline metric, unless a single task clearly moves the other way.

    Tasks are looked at with the correction of `holm`, at the level `_ALONE` where there is a mean and it did not move,
    else `_LEVEL`. So equal models are told apart with a chance of at most `_LEVEL` + `_ALONE`.
    """
    by_task: dict[str, Difference] = {}
    titles: set[str] = set()
    for task, metrics in differences.items():
        name = headline_of(metrics)
        if name is not None and task != SCORE and math.isfinite(metrics[name].p):
            by_task[task] = metrics[name]
            titles.add(SPECS[name].title)
    on = f"on {plural(users, 'user')}"
    if not by_task:
        return Verdict("cannot be told", f"cannot be told {on}: no task has an AUC with an interval in both models")
    level = _LEVEL if mean is None or mean.is_certain else _ALONE
    corrected = holm([item.p for item in by_task.values()])
    certain = [task for task, p in zip(by_task, corrected, strict=True) if p <= level]
    up = [task for task in certain if by_task[task].value > 0]
    down = [task for task in certain if by_task[task].value < 0]
    size = f"no mean over tasks, since their rows are of different users, {on}"
    if mean is not None:
        size = f"mean {' and '.join(sorted(titles))} {mean.value:+.4f} [{mean.low:+.4f}, {mean.high:+.4f}] {on}"
    tasks = "; ".join(
        f"{word}: {', '.join(f'{task} ({by_task[task].value:+.4f})' for task in names)}"
        for word, names in (("better", up), ("worse", down))
        if names
    )
    outcome = _outcome(mean, bool(up), bool(down))
    text = f"{outcome}: {size}" + (f"; {tasks}" if tasks else "")
    if outcome == "cannot be told" and mean is not None and mean.detectable > 0:
        text += f"; these users could show a difference of {_small(mean.detectable)}"
        if mean.value:
            text += f"; this one would take {_factor(mean.users_factor)} as many"
    return Verdict(outcome, text)


def _outcome(mean: Difference | None, up: bool, down: bool) -> Outcome:
    """By the mean, and by whether tasks got better, or worse."""
    if mean is not None and mean.is_certain:
        up, down = up or mean.value > 0, down or mean.value < 0
    if up and down:
        return "mixed"
    return "better" if up else "worse" if down else "cannot be told"


def _small(value: float) -> str:
    """A positive number with 4 decimals, or with a digit that is not 0."""
    return f"{value:.4f}" if value >= 1e-4 else f"{value:.1g}"


def _factor(factor: float) -> str:
    return f"{factor:,.0f} times" if factor < 10_000 else "more than 10,000 times"


def format_difference(metric: str, item: Difference) -> str:
    """A difference and its interval for a person: `+0.0012 [-0.0003, +0.0027]`."""
    value, low, high = (_signed(metric, number) for number in (item.value, item.low, item.high))
    return f"{value} [{low}, {high}]"


def _signed(metric: str, value: float) -> str:
    spec = spec_of(metric)
    return "-" if math.isnan(value) else format(value, "+" + (spec.format if spec is not None else ".4f"))


def few_buckets(result: SplitResult) -> bool:
    """Whether there are too few buckets of users for certain intervals."""
    counts = [estimate.buckets for metrics in result.estimates.values() for estimate in metrics.values()]
    return bool(counts) and max(counts) < FEW_BUCKETS
