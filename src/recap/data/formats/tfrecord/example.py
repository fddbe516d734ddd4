"""`tf.train.Example` without TensorFlow: bytes ↔ the features of one record, by the wire format of protocol buffers.

Example { Features features = 1; }  Features { map<string, Feature> feature = 1; }
Feature { oneof: BytesList = 1, FloatList = 2, Int64List = 3 }, each { repeated value = 1 }, numbers packed or not.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

BYTES, FLOATS, INTEGERS = 1, 2, 3
"""The number of the field of each list in a Feature."""
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_AT_ONCE = 1 << 14
"""Integers that are decoded at once, so that what is in between stays in the processor's cache."""

Span = tuple[int, int, int]
"""Which kind of list a feature holds, and where the bytes of its packed numbers, or of the list, begin and end."""


def find_features(record: bytes, names: Mapping[bytes, int], spans: list[Span | None]) -> None:
    """Put the span of each feature of a record that is in `names` at its place in `spans`, as the format allows them.

    Of numbers that are not in one packed run, the span is that of the list, with the kind below 0. Raises ValueError
    where it is no Example. `find_spans` finds the same for many records at once, if they are as writers make them.
    """
    start = end = 0
    for number, kind, at, stop in _fields(record, 0, len(record)):
        if number == 1 and kind == _LENGTH:
            start, end = at, stop
    for number, kind, at, stop in _fields(record, start, end):
        if number != 1 or kind != _LENGTH:
            raise ValueError(f"a field that Features has not, before byte {at}")
        name, feature, feature_end = _entry(record, at, stop)
        place = names.get(name)
        if place is not None:
            spans[place] = _feature(record, feature, feature_end)


def first_entry(entries: bytes) -> tuple[bytes, Span | None, int]:
    """Of what a Features message holds the first entry: its name, the span of its feature, where it ends.

    Raises ValueError where it is none.
    """
    for number, kind, at, stop in _fields(entries, 0, len(entries)):
        if number != 1 or kind != _LENGTH:
            break
        name, feature, feature_end = _entry(entries, at, stop)
        return name, _feature(entries, feature, feature_end), stop
    raise ValueError("no entry")


def _entry(record: bytes, start: int, end: int) -> tuple[bytes, int, int]:
    """Name and span of the Feature of a map entry, in whatever order they stand."""
    name, feature = b"", (start, start)
    for part, kind, at, stop in _fields(record, start, end):
        if part == 1 and kind == _LENGTH:
            name = record[at:stop]
        elif part == 2 and kind == _LENGTH:
            feature = (at, stop)
    return name, *feature


def _feature(record: bytes, start: int, end: int) -> Span | None:
    """The span of the list that a Feature holds; none if it holds nothing."""
    found: Span | None = None
    for number, kind, at, stop in _fields(record, start, end):
        if kind != _LENGTH or number not in (BYTES, FLOATS, INTEGERS):
            raise ValueError("a Feature that holds no list")
        found = (number, at, stop) if at < stop else None
    if found is None or found[0] == BYTES:
        return found
    number, start, end = found
    values = list(_fields(record, start, end))
    if [(part, kind) for part, kind, _, _ in values] == [(1, _LENGTH)]:  # one packed run
        return number, values[0][2], end
    return -number, start, end


def loose_numbers(content: bytes) -> bytes:
    """The packed bytes of a list of numbers that are not in one packed run."""
    return b"".join(content[at:stop] for number, _, at, stop in _fields(content, 0, len(content)) if number == 1)


def byte_values(content: bytes) -> list[bytes]:
    """The values of a list of bytes. Raises ValueError."""
    return [content[at:stop] for number, _, at, stop in _fields(content, 0, len(content)) if number == 1]


def decode_varints(data: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Packed varints [bytes] → [values] int64, seven bits a byte, the lowest first; and where the last byte of each is.

    Raises ValueError.
    """
    last = np.flatnonzero(data < 128)
    if len(last) == len(data):
        return data.astype(np.int64), last
    if not len(last) or last[-1] != len(data) - 1:
        raise ValueError("an integer is cut short")
    values = np.empty(len(last), np.int64)
    for start in range(0, len(last), _AT_ONCE):
        ends = last[start : start + _AT_ONCE]
        widths = np.diff(ends, prepend=last[start - 1] if start else -1)
        if widths.max() > 10:
            raise ValueError("an integer of more than 64 bits")
        part = values[start : start + _AT_ONCE]
        part[:] = data[ends]
        for byte in range(1, int(widths.max())):  # from the highest byte down; nothing changes where there is no more
            wider = widths > byte
            part <<= 7 * wider
            part |= (data.take(ends - byte, mode="clip") & np.uint8(127)) * wider
    return values, last


def _fields(data: bytes, position: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Every field of a message: its number, wire type, and where its content begins and ends."""
    while position < end:
        tag, position = _varint(data, position, end)
        kind = tag & 7
        if kind == _LENGTH:
            length, start = _varint(data, position, end)
            position = start + length
        elif kind == _VARINT:
            start = position
            _, position = _varint(data, position, end)
        elif kind in (_FIXED32, _FIXED64):
            start = position
            position += 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"a field of wire type {kind}")
        if position > end:
            raise ValueError("a field is longer than its record")
        yield tag >> 3, kind, start, position


def _varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    """A varint at `position`, and where what follows begins."""
    value = shift = 0
    while position < end:
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
        shift += 7
        if shift > 63:
            break
    raise ValueError("a length is cut short")


def write_example(features: Mapping[bytes, tuple[int, Sequence[Any] | npt.NDArray[Any]]]) -> bytes:
    """The bytes of a record: name → (`BYTES`, `FLOATS` or `INTEGERS`, values)."""
    entries = b""
    for name, (kind, values) in features.items():
        if kind == BYTES:
            content = b"".join(_message(1, bytes(value)) for value in values)
        elif kind == FLOATS:
            content = _message(1, np.asarray(values, "<f4").tobytes())
        else:
            content = _message(1, b"".join(_write_varint(int(value) & (2**64 - 1)) for value in values))
        entries += _message(1, _message(1, name) + _message(2, _message(kind, content)))
    return _message(1, entries)


def _message(number: int, content: bytes) -> bytes:
    return _write_varint(number << 3 | _LENGTH) + _write_varint(len(content)) + content


def _write_varint(value: int) -> bytes:
    written = bytearray()
    while value > 127:
        written.append(value & 127 | 128)
        value >>= 7
    written.append(value)
    return bytes(written)
