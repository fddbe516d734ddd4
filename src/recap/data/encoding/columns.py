"""Columns of a table → NumPy arrays, with checks of types and values; errors name file, column and row."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from recap.config.discrete import ListElement
from recap.config.features import CarriedColumn, Column
from recap.data.encoding.kinds import decoded, floats_of, hint_for, integers_of, is_list, is_number
from recap.data.formats.location import Location

Floats = npt.NDArray[np.float32]


def values_of(
    table: pa.Table, name: str, length: int, location: Location, of: ListElement | None = None
) -> tuple[pa.Array, npt.NDArray[np.bool_] | None]:
    """The values of all rows, concatenated, and a mask [B] of the rows that have values (None: all rows).

    The column holds lists of `length` values; for length 1, it may hold scalars. With `of`, the values are one element
    of each list of another column. Raises DataError for other types and lengths.
    """
    if of is not None:
        return decoded(list_element(table.column(of.column), of, location)), None
    array = decoded(as_one_array(table.column(name)))
    if pa.types.is_null(array.type) and length != 1:
        return array[:0], np.zeros(len(array), bool)
    fixed = pa.types.is_fixed_size_list(array.type)
    if not is_list(array.type):
        if length != 1:
            raise location.error(name, f"holds {array.type}, expected lists of {length} values")
        return array, None
    if fixed and array.type.list_size != length:
        expected = "a scalar" if length == 1 else length
        raise location.error(name, f"holds lists of length {array.type.list_size}, expected {expected}")
    valid = array.is_valid().to_numpy(zero_copy_only=False) if array.null_count else None
    if not fixed:
        lengths = pc.list_value_length(array).fill_null(length).to_numpy(zero_copy_only=False)
        wrong = rows_where(lengths != length)
        if wrong:
            raise location.error(name, f"holds a list of length {lengths[wrong[0]]}, expected {length}", wrong)
    return decoded(array.flatten()), valid


def numbers_of(table: pa.Table, column: Column, location: Location, null: float) -> Floats:
    """A numeric column as [B, `column.read`] float32; `null` replaces null values and null rows.

    Shares the memory of the table where possible. Raises DataError for other types and lengths.
    """
    values, valid = values_of(table, column.name, column.length, location, column.of)
    if not is_number(values.type):
        raise location.error(column.name, f"holds {values.type}, expected numbers{hint_for(values.type)}")
    flat = floats_of(values)
    if flat.null_count:
        flat = flat.fill_null(null)
    if valid is not None:
        return fill_rows(flat.to_numpy(zero_copy_only=False), valid, column.length, null)[:, : column.read]
    # Shares memory. Arrow's own view is read-only, which torch would copy.
    shared: Floats = torch.utils.dlpack.from_dlpack(flat).numpy()
    return shared.reshape(-1, column.length)[:, : column.read]


def check_zero_or_one(values: Floats, column: str, location: Location, hint: str) -> None:
    """Raise DataError for the rows of `values` [B, width] with a value other than 0, 1 or NaN."""
    good = (values == 0) | (values == 1)
    if not good.all():
        good |= np.isnan(values)
    if not good.all():
        wrong = rows_where(~np.all(good, axis=1))
        bad = float(values[wrong[0]][~good[wrong[0]]][0])
        raise location.error(column, f"found {bad:g}, expected 0 or 1; {hint}", wrong)


def as_one_array(column: pa.ChunkedArray) -> pa.Array:
    """The chunks of a column as one array."""
    if column.num_chunks == 1:
        return column.chunk(0)  # concat_arrays would copy it
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.nulls(0, column.type)


def empty_table(types: Mapping[str, pa.DataType]) -> pa.Table:
    """A table of these columns without rows; `Schema.empty_table` fails for some nested types (Arrow 26)."""
    return pa.table({name: pa.chunked_array([], kind) for name, kind in types.items()})


def list_element(column: pa.ChunkedArray, of: ListElement, location: Location) -> pa.Array:
    """Element `of.index` of each list; null where the list is null. Raises DataError for a list that is too short."""
    lists = decoded(as_one_array(column))
    kind = lists.type
    if pa.types.is_null(kind):
        return lists
    if not is_list(kind):
        raise location.error(of.column, f"holds {kind}, expected lists, to read element {of.index} of each")
    lengths = pc.list_value_length(lists).fill_null(of.index + 1).to_numpy(zero_copy_only=False)
    if pa.types.is_fixed_size_list(kind) and kind.list_size <= of.index:
        raise location.error(of.column, f"holds lists of length {kind.list_size}, without element {of.index} (from 0)")
    short = rows_where(lengths <= of.index)
    if short:
        raise location.error(
            of.column, f"holds a list of length {lengths[short[0]]}, without element {of.index} (from 0)", short
        )
    if not isinstance(kind.value_type, pa.BaseExtensionType):
        return pc.list_element(lists, of.index) if len(lists) else pa.nulls(0, kind.value_type)
    present = lists.is_valid().to_numpy(zero_copy_only=False)  # Arrow cannot build arrays of extension types (26.0)
    starts = np.cumsum(np.where(present, lengths, 0)) - lengths
    return lists.flatten().take(pa.array(starts + of.index, mask=~present))


def source_column(column: CarriedColumn) -> str:
    """The column of the data that a carried column is read from."""
    return column.name if column.of is None else column.of.column


def carried_values(table: pa.Table, column: CarriedColumn, location: Location) -> pa.Array | pa.ChunkedArray:
    """The values of a column that predictions carry. Raises DataError for an element of a list that is too short."""
    if column.of is None:
        values = table.column(column.name)
        run_end_encoded = pa.types.is_run_end_encoded(values.type)  # which Parquet cannot store
        return decoded(as_one_array(values)) if run_end_encoded else values
    return list_element(table.column(column.of.column), column.of, location)


def milliseconds(
    table: pa.Table, name: str, needed: npt.NDArray[np.bool_], location: Location, reason: str
) -> npt.NDArray[np.int64]:
    """Times [B] int64 in milliseconds; undefined where not `needed` [B].

    Timestamps of any unit count from 1970 in UTC. Raises DataError for other types, and for a null that is needed,
    with the `reason`.
    """
    values, _ = values_of(table, name, 1, location)
    if pa.types.is_timestamp(values.type):
        values = values.cast(pa.timestamp("ms"), safe=False).cast(pa.int64())
    values = integers_of(values, name, location, "timestamps, or integers: times in milliseconds")
    missing = rows_where(values.is_null().to_numpy(zero_copy_only=False) & needed)
    if missing:
        raise location.error(name, f"is null{reason}", missing)
    times: npt.NDArray[np.int64] = values.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    return times


def fill_rows(
    flat: npt.NDArray[Any], valid: npt.NDArray[np.bool_] | None, length: int, null: float
) -> npt.NDArray[Any]:
    """The values of the `valid` rows [B] → [B, length], with `null` in the other rows."""
    values = flat.reshape(-1, length)
    if valid is None:
        return values
    rows = np.full((len(valid), length), null, values.dtype)
    rows[valid] = values
    return rows


def rows_where(wrong: npt.NDArray[np.bool_]) -> list[int]:
    """The indices of the rows where `wrong` [B] is true, ascending."""
    return np.flatnonzero(wrong).tolist()
