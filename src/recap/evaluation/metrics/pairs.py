"""How many pairs of rows two numbers order alike: exact over rows in memory, or within a stated bound over a grid."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

BINS = 1024
"""Bins of labels and of predictions in a grid, which takes 8 MiB."""
_FINEST = -40
"""Bins are no narrower than 2^-40."""


def ordered_share(predictions: Floats, labels: Floats, weights: Floats) -> float:
    """The weighted share of pairs, of those whose labels differ, that predictions order as labels do; ties count half.

    [N] each; N log² N. NaN where no pair counts.
    """
    counted = weights > 0
    predictions, labels, weights = predictions[counted], labels[counted], weights[counted]
    order = np.argsort(predictions, kind="stable")
    predictions, labels, weights = predictions[order], labels[order], weights[order]
    rank = np.unique(labels, return_inverse=True)[1].reshape(-1)
    tie = np.cumsum(np.r_[True, predictions[1:] != predictions[:-1]][: len(rank)])
    won = counts = 0.0
    # Two labels differ first in one bit of their ranks, from the highest down: each pair is met once.
    for level in range(int(rank.max(initial=0)).bit_length()):
        family, is_high = rank >> (level + 1), (rank >> level & 1).astype(np.float64)
        place = np.argsort(family, kind="stable")  # by prediction within each family
        same, ties, high, weight = family[place], tie[place], is_high[place], weights[place]
        low = weight * (1 - high)
        below = np.r_[0.0, np.cumsum(low)]
        new_family = np.r_[True, same[1:] != same[:-1]]
        new_tie = new_family | np.r_[True, ties[1:] != ties[:-1]]
        start = np.flatnonzero(new_family)
        group = np.cumsum(new_tie) - 1
        before = below[np.flatnonzero(new_tie)][group] - below[start][np.cumsum(new_family) - 1]
        tied = np.bincount(group, low)[group]
        won += float((weight * high * (before + 0.5 * tied)).sum())
        counts += float((np.add.reduceat(weight * high, start) * np.add.reduceat(low, start)).sum())
    return won / counts if counts else math.nan


@dataclass
class PairGrid:
    """Weights of rows by bins of prediction and label: the share of ordered pairs in bounded memory.

    Bins part sign(x)·log(1 + |x|) evenly, in a width of 2^e: the least e at which the bins from the lowest value to the
    highest are at most `BINS`. It grows with the values, two bins becoming one, so what a grid holds depends on the set
    of rows alone, not on their order or on how they came together.
    """

    cells: Floats = field(default_factory=lambda: np.zeros((BINS, BINS)))
    """[predictions, labels] weight; a bin stands at its number modulo `BINS`."""
    axes: "tuple[Axis, Axis]" = field(default_factory=lambda: (Axis(), Axis()))
    """That of predictions, and that of labels."""
    lowest: Floats = field(default_factory=lambda: np.full((2, BINS), np.inf))
    """[axis, bin] the lowest value of each: where it is the highest, all pairs of the bin are equal."""
    highest: Floats = field(default_factory=lambda: np.full((2, BINS), -np.inf))

    def add(self, predictions: Floats, labels: Floats, weights: Floats) -> None:
        """Take in rows, [N] each; those of weight 0 count nowhere."""
        counted = weights > 0
        if not counted.any():
            return
        values = predictions[counted], labels[counted]
        scaled = [np.sign(each) * np.log1p(np.abs(each)) for each in values]
        self._widen([axis.covering(each) for axis, each in zip(self.axes, scaled, strict=True)])
        places = [axis.places(each) for axis, each in zip(self.axes, scaled, strict=True)]
        np.add.at(self.cells, tuple(places), weights[counted])
        for axis, (value, place) in enumerate(zip(values, places, strict=True)):
            np.minimum.at(self.lowest[axis], place, value)
            np.maximum.at(self.highest[axis], place, value)

    def merge(self, other: "PairGrid") -> None:
        """Take in the rows of another grid, which stays as it is."""
        if other.axes[0].is_empty:
            return
        copy = PairGrid(other.cells.copy(), other.axes, other.lowest.copy(), other.highest.copy())
        joined = [mine.joined(theirs) for mine, theirs in zip(self.axes, copy.axes, strict=True)]
        self._widen(joined)
        copy._widen(joined)
        self.cells += copy.cells
        self.lowest, self.highest = np.minimum(self.lowest, copy.lowest), np.maximum(self.highest, copy.highest)

    def share(self) -> tuple[float, float]:
        """The share of ordered pairs, and how far it may be off.

        Pairs in one bin of predictions count half, and those in one bin of labels not at all. With D the weight of the
        pairs in two bins of labels, of them S in one bin of predictions that holds several, and U that of the pairs in
        one bin of labels that holds several: the error is at most S / 2D + U / (D + U).
        """
        cells = self.axes[1].rolled(self.axes[0].rolled(self.cells, 0), 1)
        several = self.lowest < self.highest
        several_predictions, several_labels = (
            axis.rolled(each, 0) for axis, each in zip(self.axes, several, strict=True)
        )
        lower = np.cumsum(cells, axis=0) - cells  # of the same label, the weight of lower predictions
        less = np.cumsum(lower, axis=1) - lower  # of lower labels and lower predictions
        tied = np.cumsum(cells, axis=1) - cells  # of lower labels in the same bin of predictions
        by_label = cells.sum(axis=0)
        pairs = float((by_label * (np.cumsum(by_label) - by_label)).sum())
        if not pairs:
            return math.nan, math.nan
        same = (cells * tied).sum(axis=1)
        unknown = float((np.square(by_label) * several_labels).sum()) / 2
        bound = 0.5 * float((same * several_predictions).sum()) / pairs + unknown / (pairs + unknown)
        return (float((cells * less).sum()) + 0.5 * float(same.sum())) / pairs, bound

    def _widen(self, axes: "Sequence[Axis]") -> None:
        """Go over to these axes, which are no finer and hold all values of the present ones."""
        for place, (before, after) in enumerate(zip(self.axes, axes, strict=True)):
            moved = before.moved(after)
            if moved is None:
                continue
            cells, lowest, highest = np.zeros((BINS, BINS)), np.full(BINS, np.inf), np.full(BINS, -np.inf)
            np.add.at(cells if place == 0 else cells.T, moved, self.cells if place == 0 else self.cells.T)
            np.minimum.at(lowest, moved, self.lowest[place])
            np.maximum.at(highest, moved, self.highest[place])
            self.cells, self.lowest[place], self.highest[place] = cells, lowest, highest
        self.axes = (axes[0], axes[1])


@dataclass(frozen=True)
class Axis:
    """Bins of width 2^exponent, from number `first` to `last`: at most `BINS`. None of them before any value."""

    exponent: int = _FINEST
    first: int = 0
    last: int = -1

    @property
    def is_empty(self) -> bool:
        """Whether there was no value yet."""
        return self.last < self.first

    def covering(self, scaled: Floats) -> "Axis":
        """The axis that holds `scaled` values too."""
        low, high = (math.floor(math.ldexp(float(each), -_FINEST)) for each in (scaled.min(), scaled.max()))
        return self.joined(Axis(_FINEST, low, high))

    def joined(self, other: "Axis") -> "Axis":
        """The finest axis that holds what both hold, and is no finer than either."""
        if self.is_empty or other.is_empty:
            return (other if self.is_empty else self)._fitted()
        exponent = max(self.exponent, other.exponent)
        mine, theirs = self._at(exponent), other._at(exponent)
        return Axis(exponent, min(mine.first, theirs.first), max(mine.last, theirs.last))._fitted()

    def places(self, scaled: Floats) -> Integers:
        """Where the bins of `scaled` values stand: a function of each value and the width of bins."""
        places: Integers = np.floor(np.ldexp(scaled, -self.exponent)).astype(np.int64) % BINS
        return places

    def moved(self, after: "Axis") -> "Integers | None":
        """Where each place of `self` is on `after`, [BINS]; None where it stays."""
        if self.is_empty or self.exponent == after.exponent:
            return None
        bins = self.first + (np.arange(BINS) - self.first) % BINS  # the number of the bin at each place
        places: Integers = (bins >> (after.exponent - self.exponent)) % BINS
        return places

    def rolled(self, values: Floats, axis: int) -> Floats:
        """`values` by place along `axis` → from the lowest bin up."""
        return np.roll(values, -(self.first % BINS), axis)

    def _at(self, exponent: int) -> "Axis":
        shift = exponent - self.exponent
        return Axis(exponent, self.first >> shift, self.last >> shift)

    def _fitted(self) -> "Axis":
        found = self
        while found.last - found.first >= BINS:
            found = found._at(found.exponent + 1)
        return found
