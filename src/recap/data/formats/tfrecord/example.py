"""One `tf.train.Example`, without TensorFlow: its features ↔ bytes in the wire format of protocol buffers.

Example { Features features = 1; }  Features { map<string, Feature> feature = 1; }
Feature { oneof: BytesList = 1, FloatList = 2, Int64List = 3 }, each { repeated value = 1 }, numbers packed or not.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

BYTES, FLOATS, INTEGERS = 1, 2, 3
"""Field numbers of the lists in a Feature."""
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_BLOCK = 1 << 14
"""Integers decoded at a time; the intermediate arrays fit the CPU cache."""

Span = tuple[int, int, int]
"""The kind of list of a feature, and the start and end of its packed numbers, or of the list if they are not packed."""


def find_features(record: bytes, names: Mapping[bytes, int], spans: list[Span | None]) -> None:
    """Find the features of one record, in any form the wire format allows; fills `spans[names[name]]`.

    If numbers are not in one packed run, the span is that of the list, and the kind is negative. `find_spans` is the
    fast version for many records in the form that writers produce. Raises ValueError if the record is not an Example.
    """
    start = end = 0
    for number, kind, at, stop in _fields(record, 0, len(record)):
        if number == 1 and kind == _LENGTH:
            start, end = at, stop
    for number, kind, at, stop in _fields(record, start, end):
        if number != 1 or kind != _LENGTH:
            raise ValueError(f"an unknown field of Features, before byte {at}")
        name, feature, feature_end = _entry(record, at, stop)
        index = names.get(name)
        if index is not None:
            spans[index] = _feature(record, feature, feature_end)


def first_entry(entries: bytes) -> tuple[bytes, Span | None, int]:
    """The first entry of a Features message: the name, the span of the feature, and the end of the entry.

    Raises ValueError if there is none.
    """
    for number, kind, at, stop in _fields(entries, 0, len(entries)):
        if number != 1 or kind != _LENGTH:
            break
        name, feature, feature_end = _entry(entries, at, stop)
        return name, _feature(entries, feature, feature_end), stop
    raise ValueError("no entry")


def _entry(record: bytes, start: int, end: int) -> tuple[bytes, int, int]:
    """The name in a map entry, and the start and end of its Feature; the two fields may come in any order."""
    name, feature = b"", (start, start)
    for number, kind, at, stop in _fields(record, start, end):
        if number == 1 and kind == _LENGTH:
            name = record[at:stop]
        elif number == 2 and kind == _LENGTH:
            feature = (at, stop)
    return name, *feature


def _feature(record: bytes, start: int, end: int) -> Span | None:
    """The span of the list in a Feature; None if the list is empty."""
    span: Span | None = None
    for number, kind, at, stop in _fields(record, start, end):
        if kind != _LENGTH or number not in (BYTES, FLOATS, INTEGERS):
            raise ValueError("a Feature without a list")
        span = (number, at, stop) if at < stop else None
    if span is None or span[0] == BYTES:
        return span
    number, start, end = span
    values = list(_fields(record, start, end))
    if [(field, kind) for field, kind, _, _ in values] == [(1, _LENGTH)]:  # one packed run
        return number, values[0][2], end
    return -number, start, end


def loose_numbers(content: bytes) -> bytes:
    """The packed bytes of a list of numbers that are not in one packed run."""
    return b"".join(content[at:stop] for number, _, at, stop in _fields(content, 0, len(content)) if number == 1)


def byte_values(content: bytes) -> list[bytes]:
    """The values of a list of bytes. Raises ValueError."""
    return [content[at:stop] for number, _, at, stop in _fields(content, 0, len(content)) if number == 1]


def decode_varints(data: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Packed varints, seven bits per byte, lowest first → values [N] int64 and the index of the last byte of each.

    Raises ValueError.
    """
    last = np.flatnonzero(data < 128)
    if len(last) == len(data):
        return data.astype(np.int64), last
    if not len(last) or last[-1] != len(data) - 1:
        raise ValueError("an integer is cut short")
    values = np.empty(len(last), np.int64)
    for start in range(0, len(last), _BLOCK):
        ends = last[start : start + _BLOCK]
        widths = np.diff(ends, prepend=last[start - 1] if start else -1)
        if widths.max() > 10:
            raise ValueError("an integer of more than 64 bits")
        part = values[start : start + _BLOCK]
        part[:] = data[ends]
        for byte in range(1, int(widths.max())):  # from the highest byte down; shorter values stay unchanged
            wider = widths > byte
            part <<= 7 * wider
            part |= (data.take(ends - byte, mode="clip") & np.uint8(127)) * wider
    return values, last


def _fields(data: bytes, position: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """The fields of a message: number, wire type, and start and end of the content."""
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
    """The varint at `position`, and the position after it."""
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
    """The bytes of a record with the features name → (`BYTES`, `FLOATS` or `INTEGERS`, values)."""
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
