"""Where the features of many records stand, found for all records at once: entry by entry, with arrays of positions.

Only records as writers make them are followed: lengths below 2^28, each message filled by what it must hold, numbers in
one packed run. What is unusual about a record does not matter here; `find_features` reads it by itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from recap.data.formats.tfrecord.example import BYTES, INTEGERS, Span, find_features, first_entry

Bytes = npt.NDArray[np.uint8]
Positions = npt.NDArray[np.int64]
_KEY, _VALUE = 1 << 3 | 2, 2 << 3 | 2
"""The byte before every map entry, key and packed run: field 1, of a length; and the one before a Feature: field 2."""
_NAMES_A_STEP = 16
"""Records whose entries at one place bear more different names than this are read one by one."""


@dataclass(frozen=True)
class Spans:
    """The spans of features in records, [features, records]: their kinds, 0 where absent, and the bytes they are."""

    kinds: npt.NDArray[np.int8]
    starts: Positions
    ends: Positions

    def put(self, feature: int, record: int, span: Span | None, offset: int) -> None:
        """One feature of one record, which stands at `offset`."""
        kind, start, end = span or (0, 0, 0)
        self.kinds[feature, record] = kind
        self.starts[feature, record], self.ends[feature, record] = offset + start, offset + end


def find_spans(
    data: Bytes, starts: Positions, ends: Positions, names: Mapping[bytes, int]
) -> tuple[Spans, dict[int, str]]:
    """The spans of the features in `names` in the records that stand from `starts` to `ends` in `data`.

    Beside, what is wrong with each record that is no Example.
    """
    shape = (len(names), len(starts))
    spans = Spans(np.zeros(shape, np.int8), np.zeros(shape, np.int64), np.zeros(shape, np.int64))
    wrong: dict[int, str] = {}
    for row in _walk(data, starts, ends, names, spans):
        found: list[Span | None] = [None] * len(names)
        try:
            find_features(data[starts[row] : ends[row]].tobytes(), names, found)
        except ValueError as error:
            wrong[row] = str(error)
        for feature, span in enumerate(found):
            spans.put(feature, row, span, int(starts[row]))
    return spans, wrong


def _walk(data: Bytes, starts: Positions, ends: Positions, names: Mapping[bytes, int], spans: Spans) -> list[int]:
    """Fill `spans` for the usual records; the others are returned."""
    unusual = np.zeros(len(starts), bool)
    size, position = _varints(data, starts + 1)
    usual = (_at(data, starts) == _KEY) & (position + size == ends)
    unusual[~usual] = True
    rows = np.flatnonzero(usual & (position < ends))
    position = position[rows]
    while len(rows):
        found = _alike(data, position, ends[rows], names) or _entries(data, position, ends[rows], names)
        there = found.usual & (found.places >= 0)
        at = found.places[there], rows[there]
        spans.kinds[at], spans.starts[at], spans.ends[at] = found.kinds[there], found.starts[there], found.stops[there]
        unusual[rows[~found.usual]] = True
        on = found.usual & (found.stops < ends[rows])
        rows, position = rows[on], found.stops[on]
    return np.flatnonzero(unusual).tolist()


class _Entries(NamedTuple):
    """Map entries, one of each of some records."""

    places: Positions  # in the names; -1 where it is not in there
    kinds: npt.NDArray[np.int8]  # of those in the names, as all that follows
    starts: Positions  # of the bytes that a feature is
    stops: Positions  # of all entries: where they end, and the bytes with them
    usual: npt.NDArray[np.bool_]  # of all: whether this is known


def _entries(data: Bytes, position: Positions, ends: Positions, names: Mapping[bytes, int]) -> _Entries:
    """The entries at some positions in records that end at `ends`."""
    size, entry = _varints(data, position + 1)
    key_size = _at(data, entry + 1)
    value, stop = entry + 2 + key_size, entry + size
    usual = (_at(data, position) == _KEY) & (_at(data, entry) == _KEY) & (key_size < 128)
    usual &= (value <= stop) & (stop <= ends)  # positions only rise: all that was read lies before the end
    size, feature = _varints(data, value + 1)
    usual &= (_at(data, value) == _VALUE) & (feature + size == stop)
    places = _places(data, entry + 2, key_size, np.flatnonzero(usual), names)
    usual &= places > -2
    kinds, starts = np.zeros(len(position), np.int8), feature.copy()
    wanted = np.flatnonzero(usual & (places >= 0))
    if len(wanted):
        kinds[wanted], starts[wanted], usual[wanted] = _lists(data, feature[wanted], stop[wanted])
    return _Entries(places, kinds, starts, stop, usual)


def _alike(data: Bytes, position: Positions, ends: Positions, names: Mapping[bytes, int]) -> _Entries | None:
    """The same, if all that stands before the bytes of the feature is in each entry as it is in the first one."""
    try:
        name, span, size = first_entry(data[position[0] : ends[0]].tobytes())
    except ValueError:
        return None
    kind, head, end = span or (0, size, size)
    if kind < 0 or end < size or (position + size > ends).any():
        return None
    heads = bytes_from(data, position, head)
    if (heads != heads[0]).any():
        return None
    rows = len(position)
    places, kinds = np.full(rows, names.get(name, -1)), np.full(rows, kind, np.int8)
    return _Entries(places, kinds, position + head, position + size, np.ones(rows, bool))


def _places(data: Bytes, starts: Positions, sizes: Bytes, rows: Positions, names: Mapping[bytes, int]) -> Positions:
    """The places in `names` of the names at `starts`: -1 where it is not in there, -2 where that was not found out."""
    places = np.full(len(starts), -2)
    for _ in range(_NAMES_A_STEP):
        if not len(rows):
            break
        start, size = starts[rows[0]], sizes[rows[0]]
        name = data[start : start + size]
        written = _at(data, starts[rows, None] + np.arange(size))
        same = (sizes[rows] == size) & (written == name).all(axis=1)
        places[rows[same]] = names.get(name.tobytes(), -1)
        rows = rows[~same]
    return places


def _lists(data: Bytes, start: Positions, stop: Positions) -> tuple[Bytes, Positions, npt.NDArray[np.bool_]]:
    """What Features hold that stand from `start` to `stop`: the kinds, where they begin, and whether they are usual."""
    tag = _at(data, start)
    kind = tag >> 3
    size, content = _varints(data, start + 1)
    run, first = _varints(data, content + 1)
    nothing = start == stop
    usual = nothing | ((tag & 7 == 2) & (kind >= BYTES) & (kind <= INTEGERS) & (content + size == stop))
    nothing |= content == stop
    usual &= nothing | (kind == BYTES) | ((_at(data, content) == _KEY) & (first + run == stop))
    return np.where(nothing, 0, kind), np.where(kind == BYTES, content, first), usual


def _varints(data: Bytes, at: Positions) -> tuple[Positions, Positions]:
    """The varints at some positions, and where what follows each begins; 2^40 where it has more than four bytes."""
    byte = _at(data, at)
    value, after = byte.astype(np.int64), at + 1
    for shift in (7, 14, 21):
        more = np.flatnonzero(byte >= 128)
        if not len(more):
            return value, after
        byte = np.zeros_like(byte)
        byte[more] = _at(data, after[more])
        value[more] += (byte[more].astype(np.int64) - 1) << shift  # the bit that said there is more is taken off
        after[more] += 1
    value[byte >= 128] = 1 << 40
    return value, after


def _at(data: Bytes, positions: Positions) -> Bytes:
    """The bytes at some positions; any byte for those behind the end."""
    return data.take(positions, mode="clip")


def bytes_from(data: Bytes, starts: Positions, size: int) -> Bytes:
    """[rows, size]: so many bytes, at least one, from each of `starts` on; all lie in `data`, which is in one piece."""
    runs: npt.NDArray[np.void] = np.ndarray((len(data) - size + 1,), f"V{size}", data.data, strides=(1,))
    return runs[starts].view(np.uint8).reshape(-1, size)  # each run is copied at once
