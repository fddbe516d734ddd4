"""List columns of past events → padded tensors."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from recap.config.discrete import SharedCodes
from recap.config.features import FeaturesConfig
from recap.config.histories import HistoryColumns, NumberEvents
from recap.data.encoding.assets import Assets
from recap.data.encoding.codes import arrow_type, codes_of
from recap.data.encoding.columns import is_list, is_number, rows_where, whole
from recap.data.formats.location import Location

Integers = npt.NDArray[np.int64]


def event_types(name: str, features: FeaturesConfig, assets: Assets) -> Iterator[tuple[str, pa.DataType | None]]:
    """The columns of a history, and the type to read their values as where a format does not tell it."""
    history = features.histories[name]
    yield history.ids.column, _type_of(features, assets, f"{name}/ids", history.ids)
    for key, attribute in history.attributes.items():
        if isinstance(attribute, NumberEvents):
            yield attribute.column, pa.float32()
        else:
            yield attribute.column, _type_of(features, assets, f"{name}/attributes/{key}", attribute)


def _type_of(features: FeaturesConfig, assets: Assets, name: str, column: SharedCodes) -> pa.DataType | None:
    table = features.table_of(name, column)
    return arrow_type(features.code_spaces[table], assets.get(table))


def encode_history(
    table: pa.Table, name: str, features: FeaturesConfig, assets: Assets, place: Location
) -> dict[str, Tensor]:
    """One history of every row, L = `max_length`, the oldest event first; behind `length` events stands padding, 0.

    `NAME/length` [B] int64; `NAME/ids` and `NAME/attributes/KEY` of codes [B, L, codes of a value] int64, of numbers
    [B, L] float32, NaN where null. Raises DataError for a wrong type, and for the rows whose lists differ in length.
    """
    history = features.histories[name]
    lists = _lists(table, history.ids.column, place)
    lengths = _lengths(lists)
    kept = _Kept(lengths, history)
    encoded = {f"{name}/length": torch.from_numpy(kept.lengths)}

    def add_codes(key: str, coded: SharedCodes, column: str, lists: pa.Array) -> None:
        owner = features.table_of(key, coded)
        space = features.code_spaces[owner]
        values = kept.of(lists)
        if pa.types.is_null(values.type):  # no row of this part has a value that would tell a type
            codes = np.zeros((len(values), space.codes), np.int64)
        else:
            codes = codes_of(values, space, assets.get(owner), column, place, kept.rows)
        encoded[key] = kept.padded(codes)

    add_codes(f"{name}/ids", history.ids, history.ids.column, lists)
    for key, attribute in history.attributes.items():
        place_in_batch, column = f"{name}/attributes/{key}", attribute.column
        lists = _lists(table, column, place)
        _check_alike(_lengths(lists), lengths, column, history.ids.column, place)
        if isinstance(attribute, NumberEvents):
            encoded[place_in_batch] = kept.padded(_numbers(kept.of(lists), column, place))
        else:
            add_codes(place_in_batch, attribute, column, lists)
    return encoded


class _Kept:
    """Which events of all rows, end to end, are kept, and where they stand in the padded rows."""

    def __init__(self, lengths: Integers, history: HistoryColumns) -> None:
        self.lengths = np.minimum(lengths, history.max_length)  # [B]
        ends = np.cumsum(lengths)
        starts = ends - (self.lengths if history.keep == "last" else lengths)
        columns = np.arange(history.max_length)
        self.there = columns < self.lengths[:, None]  # [B, L]
        self.chosen = (starts[:, None] + columns)[self.there]  # [events]
        self.all = len(self.chosen) == (ends[-1] if len(ends) else 0)
        self.rows = np.repeat(np.arange(len(lengths)), self.lengths)  # [events]

    def of(self, lists: pa.Array) -> pa.Array:
        """Their values."""
        values = lists.flatten()  # without what lies under a null row
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        return values if self.all else values.take(pa.array(self.chosen))

    def padded(self, values: npt.NDArray[Any]) -> Tensor:
        """[events, …] → [B, L, …]."""
        rows = np.zeros((*self.there.shape, *values.shape[1:]), values.dtype)
        rows[self.there] = values
        return torch.from_numpy(rows)


def _lists(table: pa.Table, name: str, place: Location) -> pa.Array:
    """The lists of a column, of whatever length."""
    array = whole(table.column(name))
    if pa.types.is_null(array.type):
        return pa.nulls(len(array), pa.list_(pa.null()))
    if not is_list(array.type):
        raise place.error(name, f"holds {array.type}; a history is a column of lists")
    return array


def _lengths(lists: pa.Array) -> Integers:
    """[B]; 0 where a row is null."""
    lengths: Integers = pc.list_value_length(lists).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    return lengths


def _check_alike(lengths: Integers, expected: Integers, name: str, ids: str, place: Location) -> None:
    wrong = rows_where(lengths != expected)
    if wrong:
        found, needed = lengths[wrong[0]], expected[wrong[0]]
        raise place.error(name, f"holds {found} values, but {ids!r} {needed} events; each needs its own", wrong)


def _numbers(values: pa.Array, name: str, place: Location) -> npt.NDArray[np.float32]:
    if not is_number(values.type):
        raise place.error(name, f"holds lists of {values.type}; numbers are expected here; codes need a size")
    floats: npt.NDArray[np.float32] = values.cast(pa.float32(), safe=False).to_numpy(zero_copy_only=False)
    return floats
