"""Columns of any Arrow type as the few kinds that can be compared: integers, numbers, text, bytes, lists of these."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recap.data.encoding.columns import as_one_array
from recap.data.encoding.kinds import decoded, floats_of, is_bytes, is_list, is_number, is_text

Lengths = npt.NDArray[np.int64]


class Values(NamedTuple):
    """The values of N rows; those of lists one after the other."""

    flat: pa.Array
    """int64, float32 (as which a model reads numbers), large_string or large_binary; null if missing or not finite."""
    lengths: Lengths | None
    """[N] values of each row; None for a column without lists. A missing list is an empty one."""

    @property
    def is_number(self) -> bool:
        """Whether the values are numbers, of which there are differences."""
        return bool(pa.types.is_integer(self.flat.type) or pa.types.is_floating(self.flat.type))


def values_in(column: pa.ChunkedArray) -> Values | None:
    """The values of a column; None for a type that cannot be compared, such as lists of lists."""
    array = decoded(as_one_array(column))
    if not is_list(array.type):
        flat = _plain(array)
        return None if flat is None else Values(flat, None)
    lengths = pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    if pa.types.is_fixed_size_list(array.type):
        lengths = np.where(array.is_valid().to_numpy(zero_copy_only=False), array.type.list_size, 0)
    flat = _plain(decoded(array.flatten()))
    return None if flat is None else Values(flat, lengths.astype(np.int64))


def _plain(values: pa.Array) -> pa.Array | None:
    kind = values.type
    if pa.types.is_boolean(kind) or (pa.types.is_integer(kind) and not pa.types.is_uint64(kind)):
        return values.cast(pa.int8() if pa.types.is_boolean(kind) else pa.int64()).cast(pa.int64())
    if is_number(kind):
        floats = floats_of(values)
        return pc.if_else(pc.is_finite(floats), floats, pa.scalar(None, pa.float32()))
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return values.cast(pa.timestamp("ms", getattr(kind, "tz", None)), safe=False).cast(pa.int64())
    if is_text(kind):
        return values.cast(pa.large_string())
    return values.cast(pa.large_binary()) if is_bytes(kind) else None


def alike(one: Values, other: Values) -> tuple[Values, Values] | None:
    """Both with values of one type, so that 5, 5.0 and "5" are equal; None if one has lists and the other has not."""
    if (one.lengths is None) != (other.lengths is None):
        return None
    kinds = one.flat.type, other.flat.type
    if kinds[0] == kinds[1]:
        return one, other
    if one.is_number and other.is_number:
        return one._replace(flat=floats_of(one.flat)), other._replace(flat=floats_of(other.flat))
    texts = [as_texts(values.flat) for values in (one, other)]
    return one._replace(flat=texts[0]), other._replace(flat=texts[1])


def as_texts(values: pa.Array) -> pa.Array:
    """Text; whole numbers without a fraction; bytes that are no text as hexadecimal digits."""
    if pa.types.is_floating(values.type):
        whole = pc.equal(values, pc.floor(values))
        integers = pc.if_else(pc.and_(whole, pc.less(pc.abs(values), 2.0**53)), values, None)
        return pc.coalesce(
            integers.cast(pa.int64(), safe=False).cast(pa.large_string()), values.cast(pa.large_string())
        )
    try:
        return values.cast(pa.large_string())
    except pa.ArrowInvalid:
        return pa.array([None if value is None else value.hex() for value in values.to_pylist()], pa.large_string())
