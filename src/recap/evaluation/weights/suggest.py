"""Weights that reach targets, such as fewer reports, at the least loss of everything else.

A ranking by Σ wₜ·pₜ has the highest Σ wₜ·(expected engagements of t) of all rankings, since attention falls with the
place. So the weight of a task with a target is changed, by just so much that the target is reached, and all others are
kept: no other ranking reaches the target with a higher sum of the others, weighed as they are now. Expected
engagements are those of `ListSample`: of the model's own probabilities.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from recap.errors import InputError
from recap.evaluation.weights.lists import ListSample, Weights
from recap.text import shorten
from recap.text import suggest as suggest_name

DIGITS = 4
"""Significant digits of suggested weights."""
_ROUNDS = 40
_MOST = 1e5
"""The largest change of a weight, in equal contributions; beyond it other tasks do not matter."""
_FACTOR = 2.0
"""Rates out of reach up to this are likely meant as factors."""
_PRECISION = 1e-4
_ROUNDING = 1e-9
_SLACK = 1e-3
"""Several targets are aimed at with this share of their limits to spare, since a change of one moves the others."""


@dataclass(frozen=True)
class Target:
    """A limit on the expected engagements of a task."""

    task: str
    side: Literal["at most", "at least"]
    value: float
    """Per 1,000 impressions, or a factor of those under the current weights."""
    relative: bool

    @classmethod
    def parse(cls, option: str, text: str, side: Literal["at most", "at least"]) -> "Target":
        """`TASK=RATE` or `TASK=FACTORx`. Raises InputError, which names `option`."""
        task, _, number = text.rpartition("=")
        relative = number.endswith("x")
        try:
            value = float(number.removesuffix("x"))
        except ValueError:
            value = math.nan
        if not task or not math.isfinite(value):
            raise InputError(
                f"{option}: expected TASK=RATE, per 1,000 impressions, or TASK=FACTORx of the current ranking, such as "
                f"is_reported=0.9x; found {shorten(repr(text))}"
            )
        return cls(task, side, value, relative)

    @property
    def sign(self) -> float:
        """1 if more is better, −1 if less is."""
        return 1.0 if self.side == "at least" else -1.0

    def limit(self, now: float) -> float:
        """The limit per 1,000 impressions, given the expected engagements of today."""
        return self.value * now if self.relative else self.value

    def is_met(self, expected: float, now: float) -> bool:
        """Whether the expected engagements are within the limit, rounding apart."""
        limit = self.limit(now)
        return self.sign * (expected - limit) >= -_ROUNDING * abs(limit)


@dataclass(frozen=True)
class TaskChange:
    """A task before and after a change of weights; rates per 1,000 impressions, see `ListSample`."""

    task: str
    weight: float
    new_weight: float
    expected: float
    new_expected: float
    observed: float
    new_observed: float


@dataclass(frozen=True)
class Suggestion:
    """Weights, and what they change on the lists of a sample."""

    weights: Weights
    """Of all tasks that have one, before or after."""
    tasks: Sequence[TaskChange]
    kendall: float
    """Kendall's τ of the new order and the one of today, mean over lists."""
    overlap: float
    """The share of the first rows that both orders have in common."""
    lists: int
    rows: int

    def sign_changes(self) -> list[str]:
        """A sentence for each task that changes sides: counted for a row before, and against it now, or vice versa."""
        return [
            f"{task.task}: the weight changes its sign, from {task.weight:g} to {task.new_weight:g}, so the score now "
            f"counts it {'for' if task.new_weight > 0 else 'against'} a row"
            for task in self.tasks
            if task.weight * task.new_weight < 0
        ]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**vars(self), "weights": dict(self.weights), "tasks": [vars(task) for task in self.tasks]}


def keeping(sample: ListSample, task: str) -> Target:
    """The target of a task that must not get worse: a task of negative weight is better when lower."""
    return Target(task, "at most" if sample.weights.get(task, 0.0) < 0 else "at least", 1.0, relative=True)


def suggest(sample: ListSample, targets: Sequence[Target]) -> Suggestion:
    """The weights that reach `targets`, of which there is at least one.

    Raises InputError for an unknown task, and for targets out of reach.
    """
    check_weights(sample)
    for target in targets:
        check_task(sample, target.task)
    return compare(sample, _Search(sample, targets).weights())


def compare(sample: ListSample, weights: Weights) -> Suggestion:
    """What other weights change."""
    before, after = sample.order(sample.weights), sample.order(weights)
    expected, new_expected = sample.expected(before), sample.expected(after)
    observed, new_observed = sample.observed(before), sample.observed(after)
    return Suggestion(
        {task: weights.get(task, 0.0) for task in sample.tasks if task in sample.weights or weights.get(task)},
        [
            TaskChange(
                task,
                sample.weights.get(task, 0.0),
                weights.get(task, 0.0),
                expected[task],
                new_expected[task],
                observed[task],
                new_observed[task],
            )
            for task in sample.tasks
        ],
        sample.kendall(before, after),
        sample.overlap(before, after),
        len(sample.sizes),
        len(sample.numbers),
    )


def check_weights(sample: ListSample) -> None:
    """Raise InputError if no task has a weight."""
    if not sample.weights:
        raise InputError(
            "scoring.weights: no task has a weight, so there is no ranking to start from; add weights, such as the "
            f"override scoring.weights.{sample.tasks[0]}=1"
        )


def check_task(sample: ListSample, task: str) -> None:
    """Raise InputError for an unknown task."""
    if task not in sample.tasks:
        raise InputError(f"unknown task {shorten(repr(task))}. {suggest_name(task, list(sample.tasks))}")


_Changes = list[float]
"""For each target, how far the weight of its task is changed, ≥ 0: 1 adds an equal contribution to the score."""


class _Search:
    """The changes λ ≥ 0 with the smallest dual g(λ) = Σ w(λ)·E(λ) − Σ ±λ·limit, a convex function.

    E(λ) are the expected engagements under the weights w(λ). Along one λ, g is smallest where its target is just met.
    So each in turn is set there, then all move on together as far as g falls (Hooke and Jeeves, JACM 1961).
    """

    def __init__(self, sample: ListSample, targets: Sequence[Target]) -> None:
        self.sample, self.targets = sample, targets
        self.now = sample.expected(sample.order(sample.weights))
        used = [abs(weight) * sample.means[task] for task, weight in sample.weights.items()]
        self._contribution = sum(used) / len(used)
        slack = _SLACK if len(targets) > 1 else 0.0
        self._limits = [_tightened(target, self.now[target.task], slack) for target in targets]

    def weights(self) -> dict[str, float]:
        """Raises InputError for a target out of reach, alone or together with the others."""
        for target, limit in zip(self.targets, self._limits, strict=True):
            self._check_reachable(target, limit)
        changes = [0.0] * len(self.targets)
        for _ in range(_ROUNDS):
            before = list(changes)
            for number in range(len(changes)):
                changes[number] = self._just_met(number, changes)
            if self._are_met(changes):
                return self._weights(self._reduced(changes))
            if max(changes) > _MOST:
                break
            changes = self._moved_on(before, changes)
        raise self._contradiction()

    def _weights(self, changes: _Changes, digits: int = DIGITS) -> dict[str, float]:
        """The weights of all tasks after `changes`."""
        weights = {task: self.sample.weights.get(task, 0.0) for task in self.sample.tasks}
        for target, change in zip(self.targets, changes, strict=True):
            if change:
                unit = self._contribution / self.sample.means[target.task]
                weights[target.task] = float(f"{weights[target.task] + target.sign * change * unit:.{digits}g}")
        return weights

    def _expected(self, changes: _Changes) -> dict[str, float]:
        return self.sample.expected(self.sample.order(self._weights(changes)))

    def _are_met(self, changes: _Changes) -> bool:
        expected = self._expected(changes)
        return all(target.is_met(expected[target.task], self.now[target.task]) for target in self.targets)

    def _are_met_with(self, changes: _Changes, number: int, change: float) -> bool:
        return self._are_met(_replaced(changes, number, change))

    def _just_met(self, number: int, changes: _Changes) -> float:
        """The smallest change of one target with which it is met, the others as they are."""
        target, limit = self.targets[number], self._limits[number]

        def is_met(change: float) -> bool:
            return target.sign * (self._expected(_replaced(changes, number, change))[target.task] - limit) >= 0

        if is_met(0.0):
            return 0.0
        low, high = 0.0, max(changes[number], 0.01)
        while not is_met(high) and high < 2 * _MOST:
            low, high = high, 2 * high
        return _smallest(is_met, low, high)

    def _reduced(self, changes: _Changes) -> _Changes:
        """`changes`, with which all targets are met, each as small as the others allow."""
        for number, change in enumerate(changes):
            if change:
                is_met = partial(self._are_met_with, changes, number)
                changes = _replaced(changes, number, _smallest(is_met, 0.0, change))
        return changes

    def _moved_on(self, before: _Changes, changes: _Changes) -> _Changes:
        """`changes`, and further in the direction from `before` as far as the dual falls."""
        best, lowest, step = changes, self._dual(changes), 1.0
        while max(best) < _MOST:
            further = [max(now + step * (now - old), 0.0) for old, now in zip(before, changes, strict=True)]
            dual = self._dual(further)
            if dual >= lowest:
                break
            best, lowest, step = further, dual, 2 * step
        return best

    def _dual(self, changes: _Changes) -> float:
        weights = self._weights(changes, 17)
        expected = self.sample.expected(self.sample.order(weights))
        value = sum(weight * expected[task] for task, weight in weights.items())
        for target, change, limit in zip(self.targets, changes, self._limits, strict=True):
            value -= target.sign * change * self._contribution / self.sample.means[target.task] * limit
        return value

    def _check_reachable(self, target: Target, limit: float) -> None:
        """Raise InputError if even a ranking by this task alone misses its limit."""
        best = self.sample.expected(self.sample.order({target.task: target.sign}))[target.task]
        if target.sign * best < target.sign * limit:
            raise InputError(
                f"{target.task} {self._described(target)} is out of reach: a ranking by it alone has {best:.4g} per "
                f"1,000 impressions{self._factor(best, target.task)}, the current one {self.now[target.task]:.4g}"
                f"{self._meant(target, best)}"
            )

    def _meant(self, target: Target, best: float) -> str:
        """The factor that a rate out of reach was most likely meant as: one up to 2 that can be reached."""
        limit = target.value * self.now[target.task]
        if target.relative or not 0 < target.value <= _FACTOR or target.sign * best < target.sign * limit:
            return ""
        return f"; did you mean {target.task}={target.value:g}x?"

    def _contradiction(self) -> InputError:
        """The error of targets that cannot be met together."""
        wanted = " and ".join(f"{target.task} {self._described(target)}" for target in self.targets)
        message = f"no weights reach {wanted} per 1,000 impressions together; relax one"
        if len(self.targets) > 1:
            first, *others = self.targets
            rates = self.sample.expected(self.sample.order(_Search(self.sample, [first]).weights()))
            rates_of_others = ", ".join(
                f"{other.task} has {rates[other.task]:.4g}{self._factor(rates[other.task], other.task)}"
                for other in others
            )
            message += f". With {first.task} {self._described(first)} alone, {rates_of_others}"
        return InputError(message)

    def _described(self, target: Target) -> str:
        return f"{target.side} {target.limit(self.now[target.task]):.4g}"

    def _factor(self, rate: float, task: str) -> str:
        return f" ({rate / self.now[task]:.4g}x)" if self.now[task] else ""


def _replaced(changes: _Changes, number: int, change: float) -> _Changes:
    return [change if index == number else other for index, other in enumerate(changes)]


def _smallest(is_met: Callable[[float], bool], low: float, high: float) -> float:
    """The smallest value above `low` for which `is_met`, as for `high`."""
    while high - low > _PRECISION * high:
        middle = (low + high) / 2
        low, high = (low, middle) if is_met(middle) else (middle, high)
    return high


def _tightened(target: Target, now: float, slack: float) -> float:
    """The limit of a target with a share of it to spare; one that is met today by its limit alone is kept."""
    limit = target.limit(now)
    return limit + (target.sign * slack - _ROUNDING * target.sign) * abs(limit)
