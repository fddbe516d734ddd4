"""Columns of a table as NumPy arrays: what they hold is checked, and told with its rows where it cannot be."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recap.config.discrete import Position
from recap.config.features import CarriedColumn
from recap.data.formats.location import Location


def values_of(
    table: pa.Table, name: str, length: int, place: Location, of: Position | None = None
) -> tuple[pa.Array, npt.NDArray[np.bool_] | None]:
    """The values of a column end to end, and which rows have any (None: all of them).

    Scalars when `length` is 1, unless the column is a list of one; else lists that all hold `length` values. `of`: they
    are one value of each list.
    """
    if of is not None:
        return element(table.column(of.column), of, place), None
    array = whole(table.column(name))
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    fixed = pa.types.is_fixed_size_list(array.type)
    if not is_list(array.type):
        if length != 1:
            raise place.error(name, f"holds {array.type}; lists of {length} values are expected")
        return array, None
    if fixed and array.type.list_size != length:
        expected = "a scalar is" if length == 1 else f"{length} are"
        raise place.error(name, f"holds lists of {array.type.list_size} values; {expected} expected")
    valid = array.is_valid().to_numpy(zero_copy_only=False) if array.null_count else None
    if not fixed:
        lengths = pc.list_value_length(array).fill_null(length).to_numpy(zero_copy_only=False)
        wrong = rows_where(lengths != length)
        if wrong:
            raise place.error(name, f"holds a list of {lengths[wrong[0]]} values; {length} are expected", wrong)
    return array.flatten(), valid


def whole(column: pa.ChunkedArray) -> pa.Array:
    """A column in one piece."""
    if column.num_chunks == 1:
        return column.chunk(0)  # as it is: joining would copy it
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def is_list(kind: pa.DataType) -> bool:
    """Whether values of a type are lists, of one length or many."""
    return bool(pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind))


def element(column: pa.ChunkedArray, of: Position, place: Location) -> pa.Array:
    """One value of every list; null where the list is. Raises DataError where a list is too short."""
    kind = column.type
    if not is_list(kind):
        raise place.error(of.column, f"holds {kind}; lists are expected, of which value {of.index} is read")
    lengths = pc.list_value_length(column).fill_null(of.index + 1).to_numpy()
    if pa.types.is_fixed_size_list(kind) and kind.list_size <= of.index:
        raise place.error(of.column, f"holds lists of {kind.list_size} values; there is no value {of.index}")
    short = rows_where(lengths <= of.index)
    if short:
        raise place.error(of.column, f"holds a list of {lengths[short[0]]} values; there is no value {of.index}", short)
    return pc.list_element(column, of.index).combine_chunks() if len(column) else pa.array([], kind.value_type)


def source_of(column: CarriedColumn) -> str:
    """The column of the data in which it stands."""
    return column.name if column.of is None else column.of.column


def carried_values(table: pa.Table, column: CarriedColumn, place: Location) -> pa.Array | pa.ChunkedArray:
    """A column as predictions carry it. Raises DataError where it should be one value of lists that have it not."""
    return table.column(column.name) if column.of is None else element(table.column(column.of.column), column.of, place)


def milliseconds(table: pa.Table, name: str, needed: npt.NDArray[np.bool_], place: Location) -> npt.NDArray[np.int64]:
    """[B] int64; whatever where a time is not `needed`. Raises DataError where one that is needed is null."""
    values, _ = values_of(table, name, 1, place)
    if not pa.types.is_integer(values.type):
        raise place.error(name, f"holds {values.type}; a time is an integer of milliseconds")
    missing = rows_where(values.is_null().to_numpy(zero_copy_only=False) & needed)
    if missing:
        raise place.error(name, "is null, but the label is 1; a positive needs its times", missing)
    times: npt.NDArray[np.int64] = values.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    return times


def as_text(values: pa.Array, name: str, place: Location, rows: npt.NDArray[np.int64] | None = None) -> pa.Array:
    """Bytes as the text they are in UTF-8; anything else as it is. `rows` of the values, if each is not one."""
    if not (pa.types.is_binary(values.type) or pa.types.is_large_binary(values.type)):
        return values
    try:
        return values.cast(pa.string())
    except pa.ArrowException:
        texts = zip(range(len(values)) if rows is None else rows.tolist(), values.to_pylist(), strict=True)
        wrong = list(dict.fromkeys(row for row, text in texts if text is not None and not _is_text(text)))
        raise place.error(name, "holds bytes that are no UTF-8 text", wrong) from None


def _is_text(data: bytes) -> bool:
    try:
        return bool(data.decode()) or True
    except UnicodeDecodeError:
        return False


def spread(flat: npt.NDArray[Any], valid: npt.NDArray[np.bool_] | None, length: int, null: float) -> npt.NDArray[Any]:
    """`flat` values as [B, length], rows that are not `valid` filled with `null`."""
    values = flat.reshape(-1, length)
    if valid is None:
        return values
    rows = np.full((len(valid), length), null, values.dtype)
    rows[valid] = values
    return rows


def is_number(kind: pa.DataType) -> bool:
    """Whether values of a type are numbers; false and true count as 0 and 1."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def rows_where(wrong: npt.NDArray[np.bool_]) -> list[int]:
    """The rows that are wrong, rising."""
    return np.flatnonzero(wrong).tolist()
