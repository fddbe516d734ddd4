"""Events of a key → the columns of impressions: which events each impression may see, and what is made of them."""

from collections.abc import Iterator
from typing import assert_never

import numpy as np
import pyarrow as pa

from recap.config.aggregates.spec import (
    ALL,
    AggregateConfig,
    AggregatesConfig,
    CountConfig,
    LastConfig,
    RateConfig,
    RecencyConfig,
    SumConfig,
    microseconds,
)
from recap.data.aggregate.events import Engagements, Events, Stretch, added_by
from recap.data.aggregate.log import Floats, Integers
from recap.data.aggregate.running import RunningMeans


def columns_of(
    spec: AggregatesConfig, key: str, events: Events, codes: Integers, times: Integers, running: RunningMeans
) -> dict[str, pa.Array]:
    """The aggregates of `key` for impressions with `codes` at `times`, [Q] each.

    Numbers are float32, null where unknown. A code of -1 is a key without events.
    """
    asked = Impressions(spec, events, codes, times)
    columns: dict[str, pa.Array] = {}
    for aggregate in spec.of(key):
        columns |= zip(aggregate.names(key), _values(aggregate, asked, running), strict=True)
    return columns


def last_refresh(spec: AggregatesConfig, times: Integers) -> Integers:
    """[Q] the time as of which values are known: that of the last refresh, or the impression's own."""
    if spec.refresh is None:
        return times
    every, at = microseconds(spec.refresh.every), microseconds(spec.refresh.at)
    return (times - at) // every * every + at


class Impressions:
    """Impressions for which aggregates are asked, Q of them, and the events that each may see.

    An impression at t sees the impressions of a window w in [s - w, s), where s is t or the last refresh, and labels in
    [s - d - w, s - d), where d is the delay: nothing of its own time or later, so equal times never see each other.
    """

    def __init__(self, spec: AggregatesConfig, events: Events, codes: Integers, times: Integers) -> None:
        self.events, self.times = events, times
        self._delay = microseconds(spec.delay)
        self._seen = last_refresh(spec, times)
        self._order = np.lexsort((times, codes))
        self._codes = codes[self._order]
        self._distinct, self._which = np.unique(self._seen[self._order], return_inverse=True)
        self._positions: dict[int | None, Integers] = {}

    @property
    def known_until(self) -> Integers:
        """[Q] the time before which labels are known."""
        return self._seen - self._delay

    def stretch(self, window: str, *, of_labels: bool) -> Stretch:
        """The events in a window that end with the last known impression, or the last known label."""
        shift = self._delay if of_labels else 0
        start = None if window == ALL else shift + microseconds(window)
        return self._position(start), self._position(shift)

    def _position(self, shift: int | None) -> Integers:
        """[Q] the first event not before s - shift; None: the first of the key."""
        if shift not in self._positions:
            if shift is None:
                first = self.events.first(self._codes)
            else:
                first = self.events.first_at_or_after(self._codes, self._distinct - shift, self._which)
            self._positions[shift] = np.empty_like(first)
            self._positions[shift][self._order] = first
        return self._positions[shift]


def _values(aggregate: AggregateConfig, asked: Impressions, running: RunningMeans) -> Iterator[pa.Array]:
    """The columns of an aggregate, in the order of its names."""
    events = asked.events
    match aggregate:
        case CountConfig():
            for window in aggregate.windows:
                yield _floats(added_by(events.shown, asked.stretch(window, of_labels=False)))
        case SumConfig():
            for label in aggregate.labels:
                for window in aggregate.windows:
                    yield _floats(events.sums[label].over(asked.stretch(window, of_labels=True)))
        case RateConfig(strength=strength):
            for label, prior in aggregate.priors.items():
                mean = running.at(label, asked.known_until) if prior == "running" else prior
                for window in aggregate.windows:
                    stretch = asked.stretch(window, of_labels=True)
                    total, known = events.sums[label].over(stretch), added_by(events.known[label], stretch)
                    yield _floats((total + mean * strength) / (known + strength))
        case RecencyConfig():
            for engagement in aggregate.engagements:
                yield _floats(_recency(asked, engagement))
        case LastConfig(columns=columns, length=length):
            for engagement in aggregate.engagements:
                stretch = asked.stretch(ALL, of_labels=engagement is not None)
                yield from _lists(events, events.engagements(engagement), stretch, columns, length)
        case _:
            assert_never(aggregate)


def _recency(asked: Impressions, engagement: str | None) -> Floats:
    """[Q] seconds since the last engagement; NaN without one."""
    engagements = asked.events.engagements(engagement)
    starts, ends = engagements.last(*asked.stretch(ALL, of_labels=engagement is not None), length=1)
    if not len(engagements.events):
        return np.full(len(starts), np.nan)
    last = asked.events.times[engagements.events[ends - 1]]  # of another key where there is none
    return np.where(ends > starts, (asked.times - last) / 1e6, np.nan)


def _lists(
    events: Events, engagements: Engagements, stretch: Stretch, columns: list[str], length: int
) -> Iterator[pa.Array]:
    """For each column, [Q] lists of the values in the last engagements, oldest first."""
    starts, ends = engagements.last(*stretch, length=length)
    offsets = np.concatenate([[0], np.cumsum(ends - starts)])
    within = np.repeat(starts - offsets[:-1], ends - starts) + np.arange(offsets[-1])
    rows = pa.array(engagements.events[within])
    for column in columns:
        yield pa.LargeListArray.from_arrays(pa.array(offsets), events.items[column].take(rows))


def _floats(values: Floats | Integers) -> pa.Array:
    with np.errstate(over="ignore"):  # of sums beyond float32, which are infinite
        return pa.array(values.astype(np.float32), from_pandas=True)
