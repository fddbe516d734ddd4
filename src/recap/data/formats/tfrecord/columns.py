"""Spans of a feature in many records → one column; the values of all records are copied in one call."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recap.data.formats.location import Location
from recap.data.formats.tfrecord.example import BYTES, FLOATS, INTEGERS, byte_values, decode_varints, loose_numbers
from recap.data.formats.tfrecord.spans import Bytes, Spans, bytes_from

_KINDS = {BYTES: "bytes", FLOATS: "floats", INTEGERS: "integers"}


def feature_column(location: Location, field: pa.Field, data: Bytes, spans: Spans, feature: int) -> pa.Array:
    """Feature number `feature` of all records in `data`, as the type of `field`. Raises DataError with all bad rows."""
    kind = field.type
    length = kind.list_size if pa.types.is_fixed_size_list(kind) else -1 if pa.types.is_list(kind) else 1
    scalar = kind if length == 1 else kind.value_type
    expected = BYTES if pa.types.is_binary(scalar) else INTEGERS if pa.types.is_integer(scalar) else FLOATS
    kinds = np.abs(spans.kinds[feature])
    bad = _where((kinds != 0) & (kinds != expected))
    if bad:
        raise location.error(field.name, f"holds {_KINDS[kinds[bad[0]]]}, but the schema has {scalar}", bad)
    if expected == BYTES:
        return _byte_column(location, field, length, data, spans, feature)
    values, counts = _numbers(location, field.name, data, spans, feature, expected)
    _check_lengths(location, field.name, counts, length)
    if length < 0:
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values, scalar))
    if (counts == 0).any():  # absent features are zeros
        rows = np.zeros((len(counts), length), values.dtype)
        rows[counts > 0] = values.reshape(-1, length)
        values = rows.reshape(-1)
    flat = pa.array(values, scalar)
    return flat if length == 1 else pa.FixedSizeListArray.from_arrays(flat, length)


def _byte_column(location: Location, field: pa.Field, length: int, data: Bytes, spans: Spans, feature: int) -> pa.Array:
    texts: list[list[bytes]] = []
    bad: dict[int, str] = {}
    for row, (start, end) in enumerate(zip(spans.starts[feature], spans.ends[feature], strict=True)):
        try:
            texts.append(byte_values(data[start:end].tobytes()))
        except ValueError as error:
            bad[row] = str(error)
    if bad:
        raise location.error(field.name, f"not a list of bytes ({bad[min(bad)]})", sorted(bad))
    _check_lengths(location, field.name, np.array([len(text) for text in texts], np.int64), length)
    texts = [text or [b""] * max(length, 0) for text in texts]
    return pa.array([text[0] for text in texts] if length == 1 else texts, field.type)


def _numbers(
    location: Location, name: str, data: Bytes, spans: Spans, feature: int, kind: int
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """The numbers of all rows, end to end, and the count of each row."""
    packed, sizes = _packed(data, spans, feature)
    if kind == FLOATS:
        bad = _where(sizes % 4 != 0)
        if bad:
            raise location.error(name, "a float is cut short", bad)
        return packed.view("<f4"), sizes // 4
    ends = np.cumsum(sizes)
    bad = _where((sizes > 0) & (packed[np.maximum(ends, 1) - 1] >= 128)) if len(packed) else []
    if bad:
        raise location.error(name, "an integer is cut short", bad)
    try:
        values, last = decode_varints(packed)
    except ValueError as error:
        last = np.flatnonzero(packed < 128)
        long = last[np.diff(last, prepend=-1) > 10]
        bad = np.unique(np.searchsorted(ends, long, side="right")).tolist()
        raise location.error(name, str(error), bad) from None
    return values, sizes if len(values) == len(packed) else np.diff(np.searchsorted(last, ends), prepend=0)


def _packed(data: Bytes, spans: Spans, feature: int) -> tuple[Bytes, npt.NDArray[np.int64]]:
    """The packed bytes of the numbers of all rows, end to end, and the size of each row."""
    kinds, starts, ends = spans.kinds[feature], spans.starts[feature], spans.ends[feature]
    if (kinds >= 0).all():
        sizes = np.where(kinds > 0, ends - starts, 0)
        if len(sizes) and sizes.min() == sizes.max() > 0:
            return bytes_from(data, starts, int(sizes[0])).reshape(-1), sizes
        views = pa.LargeListViewArray.from_arrays(pa.array(starts), pa.array(sizes), pa.array(data))
        packed = views.flatten().to_numpy(zero_copy_only=True)
        return packed.copy() if np.may_share_memory(packed, data) else packed, sizes
    parts = []
    for loose, start, end in zip(kinds < 0, starts, ends, strict=True):
        part = data[start:end].tobytes()
        parts.append(loose_numbers(part) if loose else part)
    return np.frombuffer(b"".join(parts), np.uint8), np.array([len(part) for part in parts], np.int64)


def _check_lengths(location: Location, name: str, counts: npt.NDArray[np.int64], length: int) -> None:
    bad = _where((counts != length) & (counts != 0)) if length >= 0 else []
    if bad:
        raise location.error(name, f"holds {counts[bad[0]]} values, but the schema has {length}", bad)


def _where(mask: npt.NDArray[np.bool_]) -> list[int]:
    return np.flatnonzero(mask).tolist()
