"""The mathematics of a fitted calibration: logits, labels and weights of one task → its maps.

All functions take [N] float64 arrays: logits z, labels y in {0, 1}, weights w > 0; a row of weight 2 counts as two.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

MAX_SLOPE = 100.0
"""Steeper than this, positives and negatives are separable, or all rows have nearly the same probability."""
_MIN_SLOPE = 0.01
"""Between two points of an isotonic map."""
_MAX_STEPS = 100
_TOLERANCE = 1e-13
"""Of the gradient of the mean loss."""


class NoSlope(Exception):
    """Rows that determine no slope; the message says why."""


def fit_affine(logits: Floats, labels: Floats, weights: Floats) -> tuple[float, float]:
    """The slope a > 0 and intercept b that minimise the log loss of σ(a·z + b) (Platt 1999, without his prior).

    Newton's method with halved steps. Raises NoSlope if the best a is not in (0, `MAX_SLOPE`].
    """
    total = weights.sum()
    centre = (weights * logits).sum() / total
    spread = np.sqrt((weights * (logits - centre) ** 2).sum() / total)
    if not spread > 1e-9:
        raise NoSlope("the model gives all rows the same probability")
    inputs = (logits - centre) / spread
    rate = (weights * labels).sum() / total
    # Not the identity, where the probabilities of a saturated model leave no curvature.
    slope, intercept = 0.0, np.log(rate) - np.log1p(-rate)
    loss = _log_loss(slope * inputs + intercept, labels, weights)
    for _ in range(_MAX_STEPS):
        probabilities = sigmoid(slope * inputs + intercept)
        errors = weights * (probabilities - labels)
        gradient = np.array([(errors * inputs).sum(), errors.sum()])
        if np.abs(gradient).max() <= _TOLERANCE * total or slope > 2 * MAX_SLOPE * spread:
            break
        curvature = weights * probabilities * (1 - probabilities)
        cross = (curvature * inputs).sum()
        hessian = np.array([[(curvature * inputs**2).sum(), cross], [cross, curvature.sum()]])
        step, *_ = np.linalg.lstsq(hessian, gradient, rcond=None)
        for halvings in range(40):
            trial = np.array([slope, intercept]) - step / 2**halvings
            lower = _log_loss(trial[0] * inputs + trial[1], labels, weights)
            if lower < loss:
                break
        else:  # at the resolution of the loss, where a full step is still the better point
            slope, intercept = slope - step[0], intercept - step[1]
            break
        slope, intercept, loss = trial[0], trial[1], lower
    if slope > MAX_SLOPE * spread:
        raise NoSlope(f"the best slope is above {MAX_SLOPE:g}")
    if not slope > 0:
        raise NoSlope("the model ranks its negatives above its positives")
    return float(slope / spread), float(intercept - slope * centre / spread)


def fit_shift(logits: Floats, labels: Floats, weights: Floats) -> float:
    """The c with Σ w·σ(z + c) = Σ w·y, which minimises the log loss of σ(z + c); both labels occur."""
    low, high = -200.0, 200.0  # brackets Newton's steps; the logits of float32 are within ±106
    shift, wanted = 0.0, (weights * labels).sum()
    for _ in range(_MAX_STEPS):
        probabilities = sigmoid(logits + shift)
        excess = (weights * probabilities).sum() - wanted
        low, high = (low, shift) if excess > 0 else (shift, high)
        if abs(excess) <= _TOLERANCE * wanted:
            break
        curvature = (weights * probabilities * (1 - probabilities)).sum()
        trial = shift - excess / curvature if curvature > 0 else low
        shift = trial if low < trial < high else (low + high) / 2
    return float(shift)


def isotonic(logits: Floats, labels: Floats, weights: Floats) -> Floats:
    """The values [N] that ascend with the logits and have the least weighted squared error; ties have one value."""
    _, rows = np.unique(logits, return_inverse=True)
    return np.asarray(_pooled(_sums(rows, weights), _sums(rows, weights * labels))[rows])


def _pooled(weight: Floats, label: Floats) -> Floats:
    """Sums of weight and of weight · label in order → the mean label of the block of each.

    Pools adjacent violators (Barlow et al. 1972), all runs that descend at once, so that it needs few passes.
    """
    block = np.arange(len(weight))
    while True:
        value = label / weight
        starts = np.concatenate([[True], value[1:] > value[:-1]])
        if starts.all():
            return np.asarray(value[block])
        first = np.flatnonzero(starts)
        weight, label = np.add.reduceat(weight, first), np.add.reduceat(label, first)
        block = (np.cumsum(starts) - 1)[block]


def fit_isotonic(logits: Floats, labels: Floats, weights: Floats, knots: int) -> tuple[list[float], list[float]]:
    """The knots and values of an `IsotonicMap` of at most `knots` points, smoothed from `isotonic`.

    Bins of equal information Σ w·p·(1 − p) give one point each: the logits of the mean prediction and of the mean
    isotonic value. A bin joins the one before where the slope between the two would be below `_MIN_SLOPE`. Last, all
    values are shifted by one number so that the mean prediction is the mean label.
    """
    distinct, rows = np.unique(logits, return_inverse=True)
    weight, label = _sums(rows, weights), _sums(rows, weights * labels)
    probabilities = sigmoid(distinct)
    information = np.cumsum(weight * probabilities * (1 - probabilities))
    edges = np.searchsorted(information, information[-1] * np.arange(1, knots) / knots)
    first = np.unique(np.concatenate([[0], edges]))
    columns = (weight, weight * probabilities, weight * _pooled(weight, label))
    bins = np.stack([np.add.reduceat(column, first) for column in columns], axis=1)
    points: list[Floats] = []
    for sums in bins:
        points.append(sums)
        while len(points) > 1 and not _ascends(points[-2], points[-1]):
            last = points.pop()
            points[-1] = points[-1] + last
    knot_logits, knot_values = np.array([_point(sums) for sums in points]).T
    values = knot_values + fit_shift(piecewise(logits, knot_logits, knot_values), labels, weights)
    return knot_logits.tolist(), values.tolist()


def _ascends(before: Floats, after: Floats) -> bool:
    """Whether the points of two bins are on a map that ascends; rates of 0 and 1 are not."""
    if not (0 < before[2] < before[0] and 0 < after[2] < after[0]):
        return False
    (knot, value), (next_knot, next_value) = _point(before), _point(after)
    return bool(next_value - value >= _MIN_SLOPE * (next_knot - knot) > 0)


def _point(sums: Floats) -> Floats:
    """The sums of weight, prediction and value of a bin → its knot and value, both logits."""
    means = sums[1:] / sums[0]
    return np.asarray(np.log(means) - np.log1p(-means))


def piecewise(logits: Floats, knots: Floats, values: Floats) -> Floats:
    """The map of these points, as `IsotonicMap` defines it."""
    inside = np.interp(logits, knots, values)
    return np.asarray(inside + np.minimum(logits - knots[0], 0) + np.maximum(logits - knots[-1], 0))


@dataclass(frozen=True)
class Offsets:
    """The offsets of the values of a feature, for the values with enough positives."""

    codes: Integers  # [V]
    offsets: Floats  # [V]
    positives: Integers  # [V]
    variance: float
    """Estimated variance of the offsets of all values; 0 where the values do not differ."""

    def of(self, codes: Integers) -> Floats:
        """Codes [N] → their offsets [N]; 0 for values without one."""
        if not len(self.codes):
            return np.zeros(len(codes))
        index = np.searchsorted(self.codes, codes).clip(max=len(self.codes) - 1)
        return np.where(self.codes[index] == codes, self.offsets[index], 0.0)


def fit_offsets(logits: Floats, labels: Floats, weights: Floats, codes: Integers, min_positives: int) -> Offsets:
    """One offset per value of a feature, `codes` [N], shrunken towards 0: empirical Bayes.

    Offsets are normal with mean 0 and variance τ², estimated from one Newton step u = score / information of each
    value, by DerSimonian & Laird (Controlled Clinical Trials 1986). Each is then the maximum of its log likelihood
    − offset² / (2 τ²). Values with fewer positive rows, or negative rows, than `min_positives` have none; rows count
    by (Σ w)² / Σ w² (Kish 1965).

    Shrinking needs the variance of the scores, Σ w²·(y − p)², which is their information if all weights are 1. So the
    weights are scaled until both have one size: weights all multiplied by one number change nothing.
    """
    known, value = np.unique(codes, return_inverse=True)
    positives = np.bincount(value, labels).astype(np.int64)
    counts = [_effective(value, weights * of, len(known)) for of in (labels, 1 - labels)]
    counted = np.minimum(*counts) >= min_positives
    selected = counted[value]
    logits, labels, weights = logits[selected], labels[selected], weights[selected]
    value = (np.cumsum(counted) - 1)[value[selected]]
    count = int(counted.sum())
    offsets = np.zeros(count)
    errors = weights * (labels - sigmoid(logits)) ** 2
    weights = weights * errors.sum() / max((weights * errors).sum(), np.finfo(float).tiny)
    variance = _variance_of_offsets(logits, labels, weights, value, count)
    for _ in range(_MAX_STEPS if variance > 0 else 0):
        score, information = _score(logits + offsets[value], labels, weights, value, count)
        step = (score - offsets / variance) / (information + 1 / variance)
        offsets = offsets + step.clip(-2, 2)
        if np.abs(step).max() < 1e-10:
            break
    return Offsets(known[counted], offsets, positives[counted], variance)


def _effective(groups: npt.NDArray[np.intp], weights: Floats, count: int) -> Floats:
    """The number of rows of equal weight that tell as much as those of each group, [count]."""
    squares = _sums(groups, weights**2, count)
    return np.rint(_sums(groups, weights, count) ** 2 / np.where(squares > 0, squares, 1))


def _variance_of_offsets(logits: Floats, labels: Floats, weights: Floats, value: Integers, count: int) -> float:
    if count < 2:
        return 0.0
    score, information = _score(logits, labels, weights, value, count)
    effects = score / information
    mean = (information * effects).sum() / information.sum()
    heterogeneity = (information * (effects - mean) ** 2).sum()
    scale = information.sum() - (information**2).sum() / information.sum()
    return max(0.0, float((heterogeneity - (count - 1)) / scale))


def _score(logits: Floats, labels: Floats, weights: Floats, value: Integers, count: int) -> tuple[Floats, Floats]:
    """The derivative of the log likelihood by the offset of each value, and minus its second derivative, [V] each."""
    probabilities = sigmoid(logits)
    terms = weights * (labels - probabilities), weights * probabilities * (1 - probabilities)
    return _sums(value, terms[0], count), _sums(value, terms[1], count)


def _sums(groups: npt.NDArray[np.intp], terms: Floats, count: int = 0) -> Floats:
    """The sum of the terms of each group, [at least `count`]."""
    return np.asarray(np.bincount(groups, terms, count), np.float64)


def sigmoid(logits: Floats) -> Floats:
    """1 / (1 + e⁻ᶻ), without overflow."""
    small = np.exp(-np.abs(logits))
    return np.asarray(np.where(logits >= 0, 1.0, small) / (1 + small))


def _log_loss(logits: Floats, labels: Floats, weights: Floats) -> float:
    """Mean log loss of logits of any size."""
    return float((weights * (np.logaddexp(0, logits) - labels * logits)).sum() / weights.sum())
