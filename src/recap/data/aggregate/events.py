"""The impressions of keys in the order of time, with sums over every stretch of them.

`aggregate` asks them for the rows that they are made of, and a state for impressions to come: one computation, so that
training and serving agree.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recap.data.aggregate.keys import KeyIndex
from recap.data.aggregate.log import Floats, Integers

Stretch = tuple[Integers, Integers]
"""[Q] the first of some events in their order, and their end."""
SUMMARY = np.iinfo(np.int64).min
"""The time of a row that stands for all impressions of its key before those that are listed."""


@dataclass(frozen=True)
class KeyRows:
    """Impressions with the ids of one key, N of them in any order; equal times keep this order."""

    parts: list[Integers]
    """[N] ids of each column of the key."""
    times: Integers
    """[N] microseconds since 1970; `SUMMARY` for several impressions in one row."""
    shown: Integers
    """[N] number of impressions."""
    sums: dict[str, Floats]
    """Label → [N] its sum."""
    known: dict[str, Integers]
    """Label → [N] number of impressions with a value."""
    items: dict[str, pa.Array]
    """Column → [N] its values."""

    def take(self, rows: Integers) -> "KeyRows":
        """Some of the rows."""
        return KeyRows(
            [part[rows] for part in self.parts],
            self.times[rows],
            self.shown[rows],
            {name: values[rows] for name, values in self.sums.items()},
            {name: values[rows] for name, values in self.known.items()},
            {name: values.take(pa.array(rows)) for name, values in self.items.items()},
        )


class Events:
    """Impressions sorted by key and time."""

    def __init__(self, rows: KeyRows) -> None:
        self.index, codes = KeyIndex.of(rows.parts)
        self._rows, self.row_codes = rows, codes
        self._times, ranks = np.unique(rows.times, return_inverse=True)
        positions = codes * (len(self._times) + 1) + ranks
        self.order = np.argsort(positions, kind="stable")  # [N] row of each event
        self._sorted = positions[self.order]
        self.codes, self.times = codes[self.order], rows.times[self.order]
        self.shown = _before(rows.shown[self.order])  # [N + 1], as all numbers: before each event
        self.sums = {name: Sums(values[self.order]) for name, values in rows.sums.items()}
        self.known = {name: _before(values[self.order]) for name, values in rows.known.items()}
        self.items = {name: values.take(pa.array(self.order)) for name, values in rows.items.items()}
        self._engagements: dict[str | None, Engagements] = {}

    def first_at_or_after(self, codes: Integers, times: Integers, which: Integers) -> Integers:
        """[Q] the number of events before a time of a key, together with all events of lower codes.

        `times`: distinct times, ascending; `which`: [Q] the index of each time. Fast where codes and times ascend. A
        code of -1 has no events, and 0 before it.
        """
        ranks = np.searchsorted(self._times, times)[which]
        return np.searchsorted(self._sorted, codes * (len(self._times) + 1) + ranks)

    def first(self, codes: Integers) -> Integers:
        """[Q] the number of events of lower codes."""
        return np.searchsorted(self._sorted, codes * (len(self._times) + 1))

    def engagements(self, label: str | None) -> "Engagements":
        """The events with a label above 0; None for all that are one impression."""
        if label not in self._engagements:
            engaged = self.times > SUMMARY
            if label is not None:
                engaged &= self._rows.sums[label][self.order] > 0
            self._engagements[label] = Engagements(np.flatnonzero(engaged), _before(engaged))
        return self._engagements[label]


class Sums:
    """Sums of values, N of them, over any stretch: to about 32 digits, so a large value is not felt beside it."""

    def __init__(self, values: Floats) -> None:
        self._sums = _before(values)
        before, after = self._sums[:-1], self._sums[1:]
        added = after - before
        lost = (before - (after - added)) + (values - added)  # by rounding, exactly (Knuth, TAOCP 2, 4.2.2, theorem B)
        self._lost = _before(lost) if lost.any() else None

    def over(self, stretch: Stretch) -> Floats:
        """[Q] the sum of each stretch."""
        sums = added_by(self._sums, stretch)
        return sums if self._lost is None else sums + added_by(self._lost, stretch)


@dataclass(frozen=True)
class Engagements:
    """Some of the events, M of N."""

    events: Integers
    """[M] their positions, ascending."""
    before: Integers
    """[N + 1] how many are before each position."""

    def last(self, starts: Integers, ends: Integers, length: int) -> tuple[Integers, Integers]:
        """[Q] the first and the end, among the M, of the last `length` between two positions."""
        end = self.before[ends]
        return np.maximum(self.before[starts], end - length), end


def added_by(before: npt.NDArray[Any], stretch: Stretch) -> npt.NDArray[Any]:
    """[Q] what each stretch adds to sums [N + 1] before each event."""
    starts, ends = stretch
    sums: npt.NDArray[Any] = before[ends] - before[starts]
    return sums


def _before(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """[N] → [N + 1]: the sums of all values before each position."""
    return np.concatenate([[0], np.cumsum(values)])
