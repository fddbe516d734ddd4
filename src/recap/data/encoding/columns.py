"""Columns of a table → NumPy arrays. Checks types and values; errors name file, column and row."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from recap.config.discrete import ListElement
from recap.config.features import CarriedColumn, Column
from recap.data.formats.location import Location

Floats = npt.NDArray[np.float32]


def values_of(
    table: pa.Table, name: str, length: int, location: Location, of: ListElement | None = None
) -> tuple[pa.Array, npt.NDArray[np.bool_] | None]:
    """The values of a column, concatenated, and a mask of the rows that have any (None: all rows).

    With `length` 1 a scalar column, or lists of one value; otherwise lists of `length` values. `of`: take one value of
    each list of another column. Raises DataError for other types and lengths.
    """
    if of is not None:
        return element(table.column(of.column), of, location), None
    array = combined(table.column(name))
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    fixed = pa.types.is_fixed_size_list(array.type)
    if not is_list(array.type):
        if length != 1:
            raise location.error(name, f"holds {array.type}; lists of {length} values are expected")
        return array, None
    if fixed and array.type.list_size != length:
        expected = "a scalar is" if length == 1 else f"{length} are"
        raise location.error(name, f"holds lists of {array.type.list_size} values; {expected} expected")
    valid = array.is_valid().to_numpy(zero_copy_only=False) if array.null_count else None
    if not fixed:
        lengths = pc.list_value_length(array).fill_null(length).to_numpy(zero_copy_only=False)
        wrong = rows_where(lengths != length)
        if wrong:
            raise location.error(name, f"holds a list of {lengths[wrong[0]]} values; {length} are expected", wrong)
    return array.flatten(), valid


def numbers_of(table: pa.Table, column: Column, location: Location, null: float) -> Floats:
    """[B, width] float32 of a numeric column, width = `column.read`; `null` where a value or its whole row is null.

    Shares the memory of the table where possible. Raises DataError for other types and lengths.
    """
    values, valid = values_of(table, column.name, column.length, location, column.of)
    if not is_number(values.type):
        raise location.error(column.name, f"holds {values.type}; numbers are expected here")
    flat = values.cast(pa.float32(), safe=False)
    if flat.null_count:
        flat = flat.fill_null(null)
    if valid is not None:
        return spread(flat.to_numpy(zero_copy_only=False), valid, column.length, null)[:, : column.read]
    # Shares memory; Arrow's own view is read-only, so torch would copy it.
    shared: Floats = torch.utils.dlpack.from_dlpack(flat).numpy()
    return shared.reshape(-1, column.length)[:, : column.read]


def check_zero_or_one(values: Floats, column: str, location: Location, hint: str, *, allow_nan: bool = False) -> None:
    """Raise DataError for the rows of `values` [B, width] that hold another value than 0 or 1."""
    good = (values == 0) | (values == 1)
    if allow_nan and not good.all():
        good |= np.isnan(values)
    if not good.all():
        wrong = rows_where(~np.all(good, axis=1))
        bad = float(values[wrong[0]][~good[wrong[0]]][0])
        shown = "null or NaN" if np.isnan(bad) else f"{bad:g}"
        raise location.error(column, f"found {shown}, expected 0 or 1; {hint}", wrong)


def combined(column: pa.ChunkedArray) -> pa.Array:
    """The column as one array."""
    if column.num_chunks == 1:
        return column.chunk(0)  # concat_arrays would copy it
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def is_list(kind: pa.DataType) -> bool:
    """Whether values of this type are lists, of a fixed length or not."""
    return bool(pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind))


def element(column: pa.ChunkedArray, of: ListElement, location: Location) -> pa.Array:
    """Value `of.index` of every list, null where the list is null. Raises DataError where a list is too short."""
    kind = column.type
    if not is_list(kind):
        raise location.error(of.column, f"holds {kind}; lists are expected, to read value {of.index} of each")
    lengths = pc.list_value_length(column).fill_null(of.index + 1).to_numpy()
    if pa.types.is_fixed_size_list(kind) and kind.list_size <= of.index:
        raise location.error(of.column, f"holds lists of {kind.list_size} values; there is no value {of.index}")
    short = rows_where(lengths <= of.index)
    if short:
        raise location.error(
            of.column, f"holds a list of {lengths[short[0]]} values; there is no value {of.index}", short
        )
    return pc.list_element(column, of.index).combine_chunks() if len(column) else pa.array([], kind.value_type)


def source_of(column: CarriedColumn) -> str:
    """The column of the data that holds it."""
    return column.name if column.of is None else column.of.column


def carried_values(table: pa.Table, column: CarriedColumn, location: Location) -> pa.Array | pa.ChunkedArray:
    """A column as predictions carry it. Raises DataError where it is one value of lists that are too short."""
    return (
        table.column(column.name) if column.of is None else element(table.column(column.of.column), column.of, location)
    )


def milliseconds(
    table: pa.Table, name: str, needed: npt.NDArray[np.bool_], location: Location
) -> npt.NDArray[np.int64]:
    """[B] int64; undefined where not `needed` [B]. Raises DataError for other types and for needed nulls."""
    values, _ = values_of(table, name, 1, location)
    if not pa.types.is_integer(values.type):
        raise location.error(name, f"holds {values.type}; a time must be an integer of milliseconds")
    missing = rows_where(values.is_null().to_numpy(zero_copy_only=False) & needed)
    if missing:
        raise location.error(name, "is null, but the label is 1; a positive needs all its times", missing)
    times: npt.NDArray[np.int64] = values.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    return times


def as_text(values: pa.Array, name: str, location: Location, rows: npt.NDArray[np.int64] | None = None) -> pa.Array:
    """Decode bytes as UTF-8; return other types unchanged. Raises DataError for bytes that are not UTF-8.

    `rows`: the row of each value; default: one value per row.
    """
    if not (pa.types.is_binary(values.type) or pa.types.is_large_binary(values.type)):
        return values
    try:
        return values.cast(pa.string())
    except pa.ArrowException:
        texts = zip(range(len(values)) if rows is None else rows.tolist(), values.to_pylist(), strict=True)
        wrong = list(dict.fromkeys(row for row, text in texts if text is not None and not _is_text(text)))
        raise location.error(name, "holds bytes that are not UTF-8 text", wrong) from None


def _is_text(data: bytes) -> bool:
    try:
        return bool(data.decode()) or True
    except UnicodeDecodeError:
        return False


def spread(flat: npt.NDArray[Any], valid: npt.NDArray[np.bool_] | None, length: int, null: float) -> npt.NDArray[Any]:
    """Values of the `valid` rows [B] → [B, length], other rows filled with `null`."""
    values = flat.reshape(-1, length)
    if valid is None:
        return values
    rows = np.full((len(valid), length), null, values.dtype)
    rows[valid] = values
    return rows


def is_number(kind: pa.DataType) -> bool:
    """Whether values of this type are numbers; booleans count as 0 and 1."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def rows_where(wrong: npt.NDArray[np.bool_]) -> list[int]:
    """The indices of the wrong rows, ascending."""
    return np.flatnonzero(wrong).tolist()
