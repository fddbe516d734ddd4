"""The uncertainty of a metric, and of the difference of two: the delete-a-group jackknife over buckets of users."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Self

import numpy as np
import numpy.typing as npt

from recap.errors import InputError

FEW_BUCKETS = 20
"""Occupied buckets below which an interval is itself uncertain."""
LEVEL = 0.95
POWER = 0.8
"""The chance with which a difference of `Difference.detectable` is told from 0."""
Replicates = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Estimate:
    """The value of a metric, and its value without each bucket of users.

    The standard error is √((G − 1) / G · Σ (θ₍g₎ − θ̄)²) over G buckets (Kott, Journal of Official Statistics 2001).
    Whole users leave together, so rows of a user may depend on each other.
    """

    value: float
    replicates: Replicates
    """[G], without each of the buckets that have rows of the task, in the order of buckets."""

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Self:
        """The inverse of `numbers`."""
        return cls(numbers[0], np.array(numbers[1:]))

    @property
    def numbers(self) -> list[float]:
        """The value, then the replicates."""
        return [self.value, *self.replicates.tolist()]

    @property
    def buckets(self) -> int:
        """G, the number of buckets with rows."""
        return len(self.replicates)

    @property
    def standard_error(self) -> float:
        """NaN below 2 buckets, and where a replicate is undefined."""
        return _standard_error(self.replicates)

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """The interval around the value: Student's t with G − 1 degrees of freedom; NaN as the standard error."""
        half = self.half_width(level)
        return self.value - half, self.value + half

    def half_width(self, level: float = LEVEL) -> float:
        """Half the width of `interval`."""
        return t_quantile((1 + level) / 2, self.buckets - 1) * self.standard_error


Estimates = Mapping[str, Mapping[str, Estimate]]
"""Task → metric → estimate."""


@dataclass(frozen=True)
class Difference:
    """The difference of a metric of two models on the same rows."""

    value: float
    """The first minus the second."""
    low: float
    """Of the interval of 95 %."""
    high: float
    p: float
    """Two-sided; the chance of a difference this large between equal models. 1 where both models agree on every row."""
    detectable: float
    """The smallest difference that these users could show, with a power of 80 % at 5 % two-sided."""

    @property
    def users_factor(self) -> float:
        """The factor of users with which this difference itself would be shown; ∞ for a difference of 0."""
        return self.more_users(self.value)

    @property
    def is_certain(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0

    def more_users(self, difference: float) -> float:
        """The factor of users that could show `difference`: (detectable / difference)²; below 1 if fewer suffice."""
        return (self.detectable / difference) ** 2 if difference else math.inf


def difference(one: Estimate, other: Estimate) -> Difference:
    """`one` minus `other`, paired by bucket, so that what both models share cancels out.

    NaN where either is undefined, or below 2 buckets. Raises InputError if their buckets differ, for then they are not
    of the same rows.
    """
    if one.buckets != other.buckets:
        raise InputError(
            f"the metrics are of {one.buckets} and {other.buckets} buckets of users, so of different rows; evaluate "
            "both models on the same data"
        )
    value, freedom = one.value - other.value, one.buckets - 1
    with np.errstate(invalid="ignore"):  # ∞ − ∞, as of predictions over labels without a positive
        changes = one.replicates - other.replicates
    error = _standard_error(changes)
    half = t_quantile((1 + LEVEL) / 2, freedom) * error
    detectable = half + t_quantile(POWER, freedom) * error
    t = abs(value) / error if error else 0.0 if value == 0 else math.inf * abs(value)  # NaN of an undefined value
    p = 2 * (1 - t_probability(t, freedom))
    return Difference(value, value - half, value + half, p, detectable)


def mean_of(estimates: Iterable[Estimate]) -> Estimate:
    """The mean of estimates on the same rows, at least one, bucket by bucket."""
    listed = list(estimates)
    return Estimate(
        float(np.mean([estimate.value for estimate in listed])),
        np.mean([estimate.replicates for estimate in listed], axis=0),
    )


def _standard_error(replicates: Replicates) -> float:
    groups = len(replicates)
    if groups < 2 or not np.isfinite(replicates).all():
        return math.nan
    return math.sqrt((groups - 1) / groups * float(((replicates - replicates.mean()) ** 2).sum()))


def holm(p_values: Sequence[float]) -> npt.NDArray[np.float64]:
    """p-values corrected for their number, in their order (Holm, Scandinavian Journal of Statistics 1979).

    The chance of any claim by mistake, where those at or below a level are claimed, is at most that level.
    """
    values = np.array(p_values, np.float64)
    order = np.argsort(values, kind="stable")
    corrected = np.empty(len(values))
    corrected[order] = np.maximum.accumulate(np.minimum(values[order] * np.arange(len(values), 0, -1), 1.0))
    return corrected


def t_probability(t: float, freedom: int) -> float:
    """P(T ≤ t) of Student's t with whole degrees of freedom (Abramowitz & Stegun 26.7.3 and 26.7.4); NaN below 1."""
    if freedom < 1 or math.isnan(t):
        return math.nan
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term = cosine if odd else 1.0
    total = term if freedom > 1 else 0.0
    for number in range(1 + odd, freedom - 1, 2):
        term *= cosine**2 * number / (number + 1)
        total += term
    between = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return (1 + between) / 2


@cache
def t_quantile(probability: float, freedom: int) -> float:
    """The t with P(T ≤ t) = `probability`, which is in (0, 1); NaN below 1 degree of freedom."""
    if freedom < 1:
        return math.nan
    low, high = 0.0, math.pi / 2  # of the angle, in which every quantile is finite
    upper = max(probability, 1 - probability)
    for _ in range(60):
        middle = (low + high) / 2
        below = t_probability(math.tan(middle) * math.sqrt(freedom), freedom) < upper
        low, high = (middle, high) if below else (low, middle)
    return math.copysign(math.tan(low) * math.sqrt(freedom), probability - 0.5)
