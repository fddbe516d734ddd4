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
from recap.data.encoding.columns import combined, is_list, is_number, rows_where
from recap.data.formats.location import Location

Integers = npt.NDArray[np.int64]


def event_types(name: str, features: FeaturesConfig, assets: Assets) -> Iterator[tuple[str, pa.DataType | None]]:
    """The columns of a history, and the type to read their values as, for formats that store none."""
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
    table: pa.Table, name: str, features: FeaturesConfig, assets: Assets, location: Location
) -> dict[str, Tensor]:
    """One history of every row, L = `max_length`, oldest event first, padded with 0 after `length` events.

    `NAME/length`: [B] int64. `NAME/ids` and `NAME/attributes/KEY`: codes [B, L, codes of a value] int64, or numbers
    [B, L] float32, NaN where null. Raises DataError for a wrong type, and for rows whose lists differ in length.
    """
    history = features.histories[name]
    lists = _lists(table, history.ids.column, location)
    lengths = _lengths(lists)
    events = _RetainedEvents(lengths, history)
    encoded = {f"{name}/length": torch.from_numpy(events.lengths)}

    def add_codes(key: str, coded: SharedCodes, column: str, lists: pa.Array) -> None:
        owner = features.table_of(key, coded)
        space = features.code_spaces[owner]
        values = events.values(lists)
        if pa.types.is_null(values.type):  # without a value there is no type to check
            codes = np.zeros((len(values), space.codes), np.int64)
        else:
            codes = codes_of(values, space, assets.get(owner), column, location, events.rows)
        encoded[key] = events.padded(codes)

    add_codes(f"{name}/ids", history.ids, history.ids.column, lists)
    for key, attribute in history.attributes.items():
        full_key, column = f"{name}/attributes/{key}", attribute.column
        lists = _lists(table, column, location)
        _check_lengths(_lengths(lists), lengths, column, history.ids.column, location)
        if isinstance(attribute, NumberEvents):
            encoded[full_key] = events.padded(_numbers(events.values(lists), column, location))
        else:
            add_codes(full_key, attribute, column, lists)
    return encoded


class _RetainedEvents:
    """The events that `max_length` retains: their indices in the flattened lists, and their mask in the padded rows."""

    def __init__(self, lengths: Integers, history: HistoryColumns) -> None:
        self.lengths = np.minimum(lengths, history.max_length)  # [B]
        ends = np.cumsum(lengths)
        starts = ends - (self.lengths if history.keep == "last" else lengths)
        columns = np.arange(history.max_length)
        self.mask = columns < self.lengths[:, None]  # [B, L]
        self.indices = (starts[:, None] + columns)[self.mask]  # [events]
        self.all = len(self.indices) == (ends[-1] if len(ends) else 0)
        self.rows = np.repeat(np.arange(len(lengths)), self.lengths)  # [events]

    def values(self, lists: pa.Array) -> pa.Array:
        """The values of the retained events, [events]."""
        values = lists.flatten()  # skips whatever a null row holds
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        return values if self.all else values.take(pa.array(self.indices))

    def padded(self, values: npt.NDArray[Any]) -> Tensor:
        """[events, …] → [B, L, …]."""
        rows = np.zeros((*self.mask.shape, *values.shape[1:]), values.dtype)
        rows[self.mask] = values
        return torch.from_numpy(rows)


def _lists(table: pa.Table, name: str, location: Location) -> pa.Array:
    """The lists of a column, of any lengths."""
    array = combined(table.column(name))
    if pa.types.is_null(array.type):
        return pa.nulls(len(array), pa.list_(pa.null()))
    if not is_list(array.type):
        raise location.error(name, f"holds {array.type}; a history is a column of lists")
    return array


def _lengths(lists: pa.Array) -> Integers:
    """[B]; 0 where a row is null."""
    lengths: Integers = pc.list_value_length(lists).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    return lengths


def _check_lengths(lengths: Integers, expected: Integers, name: str, ids: str, location: Location) -> None:
    wrong = rows_where(lengths != expected)
    if wrong:
        text = f"holds {lengths[wrong[0]]} values, but {ids!r} holds {expected[wrong[0]]} events; each event needs one"
        raise location.error(name, text, wrong)


def _numbers(values: pa.Array, name: str, location: Location) -> npt.NDArray[np.float32]:
    if not is_number(values.type):
        raise location.error(name, f"holds lists of {values.type}; numbers are expected here; codes need a size")
    floats: npt.NDArray[np.float32] = values.cast(pa.float32(), safe=False).to_numpy(zero_copy_only=False)
    return floats
