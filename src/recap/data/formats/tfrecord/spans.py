"""Finds features in many records at once: entry by entry, with one array operation for all records.

This needs records in the form that writers produce: lengths below 2^28, only the required fields, numbers in one packed
run. `find_features` parses other records, one by one.
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
"""Tags: field 1 with a length (a map entry, a key or a packed run), and field 2 with a length (a Feature)."""
_MAX_NAMES = 16
"""Distinct names looked up in one entry of all records; records with other names are parsed one by one."""


@dataclass(frozen=True)
class Spans:
    """The spans of features in records; each array is [features, B]. Kind 0 is an absent feature."""

    kinds: npt.NDArray[np.int8]
    starts: Positions
    ends: Positions

    def put(self, feature: int, record: int, span: Span | None, offset: int) -> None:
        """Set the span of one feature in the record at `offset`."""
        kind, start, end = span or (0, 0, 0)
        self.kinds[feature, record] = kind
        self.starts[feature, record], self.ends[feature, record] = offset + start, offset + end


def find_spans(
    data: Bytes, starts: Positions, ends: Positions, names: Mapping[bytes, int]
) -> tuple[Spans, dict[int, str]]:
    """The spans of features in the records `starts` to `ends` of `data`; `names[name]` is the index of a feature.

    Also returns record → error, for the records that are not Examples.
    """
    shape = (len(names), len(starts))
    spans = Spans(np.zeros(shape, np.int8), np.zeros(shape, np.int64), np.zeros(shape, np.int64))
    errors: dict[int, str] = {}
    for row in _walk(data, starts, ends, names, spans):
        record: list[Span | None] = [None] * len(names)
        try:
            find_features(data[starts[row] : ends[row]].tobytes(), names, record)
        except ValueError as error:
            errors[row] = str(error)
        for feature, span in enumerate(record):
            spans.put(feature, row, span, int(starts[row]))
    return spans, errors


def _walk(data: Bytes, starts: Positions, ends: Positions, names: Mapping[bytes, int], spans: Spans) -> list[int]:
    """Fill `spans` for the records in the usual form; return the others."""
    unusual = np.zeros(len(starts), bool)
    size, position = _varints(data, starts + 1)
    usual = (_at(data, starts) == _KEY) & (position + size == ends)
    unusual[~usual] = True
    rows = np.flatnonzero(usual & (position < ends))
    position = position[rows]
    while len(rows):
        entries = _same_entry(data, position, ends[rows], names) or _entries(data, position, ends[rows], names)
        wanted = entries.usual & (entries.features >= 0)
        at = entries.features[wanted], rows[wanted]
        spans.kinds[at], spans.starts[at] = entries.kinds[wanted], entries.starts[wanted]
        spans.ends[at] = entries.stops[wanted]
        unusual[rows[~entries.usual]] = True
        unfinished = entries.usual & (entries.stops < ends[rows])
        rows, position = rows[unfinished], entries.stops[unfinished]
    return np.flatnonzero(unusual).tolist()


class _Entries(NamedTuple):
    """One map entry in each of several records."""

    features: Positions  # index of the feature; -1 if it is not wanted
    kinds: npt.NDArray[np.int8]  # of wanted features
    starts: Positions  # of the bytes of wanted features
    stops: Positions  # of the entries, and of the bytes of their features
    usual: npt.NDArray[np.bool_]  # whether the entry has the usual form; if not, its other values are undefined


def _entries(data: Bytes, position: Positions, ends: Positions, names: Mapping[bytes, int]) -> _Entries:
    """The entries at these positions, in records that end at `ends`."""
    size, entry = _varints(data, position + 1)
    key_size = _at(data, entry + 1)
    value, stop = entry + 2 + key_size, entry + size
    usual = (_at(data, position) == _KEY) & (_at(data, entry) == _KEY) & (key_size < 128)
    usual &= (value <= stop) & (stop <= ends)  # positions ascend, so everything read is before the end
    size, feature = _varints(data, value + 1)
    usual &= (_at(data, value) == _VALUE) & (feature + size == stop)
    features = _feature_indices(data, entry + 2, key_size, np.flatnonzero(usual), names)
    usual &= features > -2
    kinds, starts = np.zeros(len(position), np.int8), feature.copy()
    wanted = np.flatnonzero(usual & (features >= 0))
    if len(wanted):
        kinds[wanted], starts[wanted], usual[wanted] = _lists(data, feature[wanted], stop[wanted])
    return _Entries(features, kinds, starts, stop, usual)


def _same_entry(data: Bytes, position: Positions, ends: Positions, names: Mapping[bytes, int]) -> _Entries | None:
    """A faster `_entries` for entries with the same bytes before their values; None for others."""
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
    features, kinds = np.full(rows, names.get(name, -1)), np.full(rows, kind, np.int8)
    return _Entries(features, kinds, position + head, position + size, np.ones(rows, bool))


def _feature_indices(
    data: Bytes, starts: Positions, sizes: Bytes, rows: Positions, names: Mapping[bytes, int]
) -> Positions:
    """The features named at `starts`: -1 for names that are not wanted, -2 for names that were not looked up."""
    features = np.full(len(starts), -2)
    for _ in range(_MAX_NAMES):
        if not len(rows):
            break
        start, size = starts[rows[0]], sizes[rows[0]]
        name = data[start : start + size]
        candidates = _at(data, starts[rows, None] + np.arange(size))
        same = (sizes[rows] == size) & (candidates == name).all(axis=1)
        features[rows[same]] = names.get(name.tobytes(), -1)
        rows = rows[~same]
    return features


def _lists(data: Bytes, start: Positions, stop: Positions) -> tuple[Bytes, Positions, npt.NDArray[np.bool_]]:
    """The kinds and starts of the lists in the Features from `start` to `stop`, and whether their form is usual."""
    tag = _at(data, start)
    kind = tag >> 3
    size, content = _varints(data, start + 1)
    run, first = _varints(data, content + 1)
    empty = start == stop
    usual = empty | ((tag & 7 == 2) & (kind >= BYTES) & (kind <= INTEGERS) & (content + size == stop))
    empty |= content == stop
    usual &= empty | (kind == BYTES) | ((_at(data, content) == _KEY) & (first + run == stop))
    return np.where(empty, 0, kind), np.where(kind == BYTES, content, first), usual


def _varints(data: Bytes, at: Positions) -> tuple[Positions, Positions]:
    """The varints at these positions, and the positions after them; 2^40 for varints of more than four bytes."""
    byte = _at(data, at)
    value, after = byte.astype(np.int64), at + 1
    for shift in (7, 14, 21):
        more = np.flatnonzero(byte >= 128)
        if not len(more):
            return value, after
        byte = np.zeros_like(byte)
        byte[more] = _at(data, after[more])
        value[more] += (byte[more].astype(np.int64) - 1) << shift  # minus 1 clears the continuation bit
        after[more] += 1
    value[byte >= 128] = 1 << 40
    return value, after


def _at(data: Bytes, positions: Positions) -> Bytes:
    """The bytes at these positions; undefined for positions beyond the end."""
    return data.take(positions, mode="clip")


def bytes_from(data: Bytes, starts: Positions, size: int) -> Bytes:
    """[B, size]: the `size` ≥ 1 bytes from each of `starts` in `data`, which must be contiguous and long enough."""
    runs: npt.NDArray[np.void] = np.ndarray((len(data) - size + 1,), f"V{size}", data.data, strides=(1,))
    return runs[starts].view(np.uint8).reshape(-1, size)  # copies each run as one element
