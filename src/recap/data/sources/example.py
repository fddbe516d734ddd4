"""`tf.train.Example` without TensorFlow: bytes ↔ the features of one record, by the wire format of protocol buffers.

Example { Features features = 1; }  Features { map<string, Feature> feature = 1; }
Feature { oneof: BytesList = 1, FloatList = 2, Int64List = 3 }, each { repeated value = 1 }, numbers packed or not.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Values = list[bytes] | npt.NDArray[np.float32] | npt.NDArray[np.int64]
"""The values of one feature."""
BYTES, FLOATS, INTEGERS = 1, 2, 3
"""The number of the field of each list in a Feature."""
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


def parse_example(record: bytes, names: Mapping[bytes, Any]) -> dict[bytes, Values]:
    """The features of a record that are in `names`. Raises ValueError where it is no Example."""
    found: dict[bytes, Values] = {}
    for number, kind, start, end in _fields(record, 0, len(record)):
        if number != 1 or kind != _LENGTH:
            continue
        for inner, inner_kind, entry, entry_end in _fields(record, start, end):
            if inner != 1 or inner_kind != _LENGTH:
                continue
            name, feature = b"", (0, 0)
            for part, _, at, stop in _fields(record, entry, entry_end):
                if part == 1:
                    name = record[at:stop]
                elif part == 2:
                    feature = (at, stop)
            if name in names:
                found[name] = _values(record, *feature)
    return found


def _values(record: bytes, start: int, end: int) -> Values:
    """What a Feature holds; nothing at all is an empty list of bytes."""
    for number, _, at, stop in _fields(record, start, end):
        if number == FLOATS:
            return _floats(record, at, stop)
        if number == INTEGERS:
            return _integers(record, at, stop)
        if number == BYTES:
            return [record[a:b] for part, _, a, b in _fields(record, at, stop) if part == 1]
    return []


def _floats(record: bytes, start: int, end: int) -> npt.NDArray[np.float32]:
    parts = [
        np.frombuffer(record, "<f4", (stop - at) // 4, at)
        for number, _, at, stop in _fields(record, start, end)
        if number == 1
    ]
    return parts[0] if len(parts) == 1 else np.concatenate(parts) if parts else np.empty(0, np.float32)


def _integers(record: bytes, start: int, end: int) -> npt.NDArray[np.int64]:
    parts: list[npt.NDArray[np.int64]] = []
    for number, _, at, stop in _fields(record, start, end):
        if number == 1:
            parts.append(decode_varints(np.frombuffer(record, np.uint8, stop - at, at)))
    return parts[0] if len(parts) == 1 else np.concatenate(parts) if parts else np.empty(0, np.int64)


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
