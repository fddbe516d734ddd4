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
_TAG = 1 << 3 | _LENGTH
"""The byte before every map entry, every key and every packed list: field 1, of a length."""

Span = tuple[int, int, int]
"""Which kind of list a feature holds, and where the bytes of its packed numbers, or of the list, begin and end."""


def find_features(record: bytes, names: Mapping[bytes, int], spans: list[Span | None]) -> None:
    """Put the span of each feature of a record that is in `names` at its place in `spans`.

    Of numbers that are not packed, the span is that of the list, with the kind below 0. The layout that writers give a
    record is read straight through; anything else as the format allows it. Raises ValueError where it is no Example.
    """
    position, end = _content(record, 0, len(record))
    while position < end:
        if record[position] != _TAG:
            raise ValueError(f"a field that Features has not, at byte {position}")
        size, entry = _varint(record, position + 1, end)
        position = entry + size
        if position > end:
            raise ValueError("a feature is longer than its record")
        if record[entry] == _TAG and record[entry + 1] < 128:
            name = record[entry + 2 : entry + 2 + record[entry + 1]]
            place = names.get(name)
            if place is not None:
                spans[place] = _span(record, entry + 2 + len(name), position)
        else:
            name, at, stop = _entry(record, entry, position)
            place = names.get(name)
            if place is not None:
                spans[place] = _feature(record, at, stop)


def _content(record: bytes, start: int, end: int) -> tuple[int, int]:
    """Where the one message of field 1 begins and ends; nothing where there is none."""
    found = (start, start)
    for number, kind, at, stop in _fields(record, start, end):
        if number == 1 and kind == _LENGTH:
            found = (at, stop)
    return found


def _entry(record: bytes, start: int, end: int) -> tuple[bytes, int, int]:
    """Name and span of the Feature of a map entry, in whatever order they stand."""
    name, feature = b"", (start, start)
    for part, _, at, stop in _fields(record, start, end):
        if part == 1:
            name = record[at:stop]
        elif part == 2:
            feature = (at, stop)
    return name, *feature


def _span(record: bytes, position: int, end: int) -> Span | None:
    """The span of what follows the name of an entry."""
    if position >= end:
        return None
    if record[position] != 2 << 3 | _LENGTH:
        _, at, stop = _entry(record, position, end)
        return _feature(record, at, stop)
    size, start = _varint(record, position + 1, end)
    return _feature(record, start, start + size)


def _feature(record: bytes, start: int, end: int) -> Span | None:
    """The span of the list that a Feature holds; none if it holds nothing."""
    if start >= end:
        return None
    kind = record[start] >> 3
    size, at = _varint(record, start + 1, end)
    stop = at + size
    if record[start] & 7 != _LENGTH or kind not in (BYTES, FLOATS, INTEGERS) or stop > end:
        raise ValueError("a Feature that holds no list")
    if at == stop:
        return None
    if kind == BYTES:
        return kind, at, stop
    if record[at] == _TAG:  # one packed run of numbers, as every writer makes it
        packed, first = _varint(record, at + 1, stop)
        if first + packed == stop:
            return kind, first, stop
    return -kind, at, stop


def loose_numbers(record: bytes, span: Span) -> bytes:
    """The packed bytes of numbers that are not in one packed run."""
    _, start, end = span
    return b"".join(record[at:stop] for number, _, at, stop in _fields(record, start, end) if number == 1)


def byte_values(record: bytes, span: Span) -> list[bytes]:
    """The values of a list of bytes."""
    return [record[at:stop] for number, _, at, stop in _fields(record, span[1], span[2]) if number == 1]


def decode_varints(data: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Packed varints [bytes] → [values] int64: seven bits a byte, the lowest first. Raises ValueError."""
    last = data < 128
    if last.all():
        return data.astype(np.int64)
    ends = np.flatnonzero(last) + 1
    if not len(ends) or ends[-1] != len(data):
        raise ValueError("an integer is cut short")
    starts = np.concatenate([[0], ends[:-1]])
    lengths = ends - starts
    if lengths.max() > 10:
        raise ValueError("an integer of more than 64 bits")
    values = np.zeros(len(ends), np.uint64)
    for byte in range(int(lengths.max())):
        has = lengths > byte
        values[has] |= (data[starts[has] + byte] & np.uint8(127)).astype(np.uint64) << np.uint64(7 * byte)
    return values.astype(np.int64)


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
