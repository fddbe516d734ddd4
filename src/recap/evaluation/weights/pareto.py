"""The Pareto front of two tasks: the rankings in which neither can gain without a loss of the other."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recap.errors import InputError
from recap.evaluation.metrics.rows import Floats
from recap.evaluation.weights.lists import ListSample, Weights
from recap.evaluation.weights.suggest import DIGITS, check_task, check_weights
from recap.text import shorten

POINTS = 11
_RATIOS = 65


@dataclass(frozen=True)
class Point:
    """A ranking: its weights, and the expected engagements of the two tasks per 1,000 impressions."""

    weights: Weights
    expected: Weights

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"weights": dict(self.weights), "expected": dict(self.expected)}


@dataclass(frozen=True)
class Front:
    """The front from the best of the first task to the best of the second."""

    tasks: tuple[str, str]
    points: Sequence[Point]
    current: Point
    """The ranking of today, which serves other tasks too."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "tasks": list(self.tasks),
            "points": [point.to_json() for point in self.points],
            "current": self.current.to_json(),
        }


def pareto(sample: ListSample, tasks: Sequence[str]) -> Front:
    """The front of two tasks. A task of negative weight is better when lower. Raises InputError for other tasks.

    A point maximises a·A + b·B, where A and B are the engagements in units of their mean. Of the points of many ratios
    b / a, those are kept that are the most evenly spread along the front.
    """
    check_weights(sample)
    if len(tasks) != 2 or tasks[0] == tasks[1]:
        raise InputError(f"--tasks: expected two different tasks, such as A,B; found {shorten(repr(','.join(tasks)))}")
    for task in tasks:
        check_task(sample, task)
        if not sample.means[task]:
            raise InputError(f"--tasks: {task} is predicted as 0 in all rows, so it has no order")
    signs = [-1.0 if sample.weights.get(task, 0.0) < 0 else 1.0 for task in tasks]
    angles = np.r_[0.0, np.arctan(2.0 ** np.linspace(-8, 8, _RATIOS)), np.pi / 2]
    points = [_point(sample, _weights(sample, tasks, signs, angle), tasks) for angle in angles]
    gains = np.array(
        [[sign * point.expected[task] for sign, task in zip(signs, tasks, strict=True)] for point in points]
    )
    # The ends maximise one task alone, so another point may equal them in it and be better in the other.
    front = [index for index, gain in enumerate(gains) if not _is_beaten(gain, gains)]
    chosen = [front[index] for index in _spread(gains[front])]
    return Front((tasks[0], tasks[1]), [points[index] for index in chosen], _point(sample, sample.weights, tasks))


def _weights(sample: ListSample, tasks: Sequence[str], signs: Sequence[float], angle: float) -> dict[str, float]:
    shares = (math.cos(angle), math.sin(angle))
    raw = [sign * share / sample.means[task] for sign, share, task in zip(signs, shares, tasks, strict=True)]
    if angle == np.pi / 2:
        raw[0] = 0.0
    return {task: float(f"{weight:.{DIGITS}g}") + 0.0 for task, weight in zip(tasks, raw, strict=True)}


def _is_beaten(gain: Floats, gains: Floats) -> bool:
    """Whether another point is at least as good in both tasks, and better in one."""
    return bool(((gains >= gain).all(axis=1) & (gains > gain).any(axis=1)).any())


def _spread(gains: Floats) -> list[int]:
    """At most `POINTS` of the points [N, 2], both ends included, at even distances along the front."""
    extent = np.ptp(gains, axis=0)
    steps = np.abs(np.diff(gains, axis=0) / np.where(extent > 0, extent, 1)).sum(axis=1)
    along = np.r_[0.0, np.cumsum(steps)]
    chosen = np.searchsorted(along, np.linspace(0, along[-1], POINTS) - 1e-12)
    return sorted(set(chosen.tolist()))


def _point(sample: ListSample, weights: Weights, tasks: Sequence[str]) -> Point:
    expected = sample.expected(sample.order(weights))
    return Point(weights, {task: expected[task] for task in tasks})
