"""The distributions of the columns of two sets of rows that have no key in common."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recap.evaluation.drift import Pair, psi
from recap.evaluation.observers.bins import CODES, range_ends
from recap.evaluation.skew.values import Values

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Distribution:
    """How the values of a column are distributed in ONE and in OTHER."""

    column: str
    psi: float
    """Population stability index, as in `evaluation.drift`: over ten ranges of the numbers of ONE, or its 64 most
    frequent texts; missing values are a bin of their own."""
    missing: Pair
    """Shares of rows without a finite value; of lists, shares of empty ones."""
    mean: Pair | None
    """Of numbers; NaN without any."""
    new: float | None
    """Of texts and integers: the share of the values in OTHER that ONE does not hold."""
    length: Pair | None
    """Mean number of values in lists."""


def distribution(name: str, one: Values, other: Values) -> Distribution:
    """`one` and `other` are alike."""
    counts = _ranges(one.flat, other.flat) if one.is_number else _texts(one.flat, other.flat)
    before, after = one.flat.drop_null(), other.flat.drop_null()
    new = None
    if not pa.types.is_floating(one.flat.type) and len(after):
        new = 1 - pc.is_in(after, value_set=before.unique()).true_count / len(after)
    return Distribution(
        name,
        psi(*counts),
        (_missing(one), _missing(other)),
        (_mean(_numbers(before)), _mean(_numbers(after))) if one.is_number else None,
        new,
        None if one.lengths is None or other.lengths is None else (_mean(one.lengths), _mean(other.lengths)),
    )


def _ranges(one: pa.Array, other: pa.Array) -> tuple[Counts, Counts]:
    """The counts in ranges with about equally many numbers of `one`, and of nulls."""
    ends = np.array(range_ends(_numbers(one.drop_null())))
    counts = []
    for values in (one, other):
        bins = np.searchsorted(ends, _numbers(values.drop_null()), side="right")
        counts.append(np.append(np.bincount(bins, minlength=len(ends) + 1), values.null_count))
    return _seen(counts[0], counts[1])


def _texts(one: pa.Array, other: pa.Array) -> tuple[Counts, Counts]:
    """The counts of the most frequent values of `one`, of all others, and of nulls."""
    counted = pc.value_counts(one.drop_null())
    order = np.argsort(-counted.field("counts").to_numpy(), kind="stable")[:CODES]
    known = counted.field("values").take(pa.array(order))
    counts = []
    for values in (one, other):
        bins = pc.index_in(values.drop_null(), value_set=known).fill_null(len(known))
        bins = bins.to_numpy(zero_copy_only=False)
        counts.append(np.append(np.bincount(bins, minlength=len(known) + 1), values.null_count))
    return _seen(counts[0], counts[1])


def _seen(one: Counts, other: Counts) -> tuple[Counts, Counts]:
    """The bins that hold anything."""
    seen = (one > 0) | (other > 0)
    return one[seen], other[seen]


def _missing(values: Values) -> float:
    if values.lengths is not None:
        return _mean(values.lengths == 0)
    return values.flat.null_count / len(values.flat) if len(values.flat) else float("nan")


def _numbers(values: pa.Array) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = values.to_numpy(zero_copy_only=False)
    return array


def _mean(values: npt.NDArray[Any]) -> float:
    return float(np.mean(values, dtype=np.float64)) if len(values) else float("nan")
