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
from recap.data.encoding.columns import as_one_array, rows_where
from recap.data.encoding.kinds import decoded, floats_of, is_list, is_number
from recap.data.formats.location import Location

Integers = npt.NDArray[np.int64]


def event_types(name: str, features: FeaturesConfig, assets: Assets) -> Iterator[tuple[str, pa.DataType]]:
    """The columns of a history, each with the type of its values in formats that do not store types."""
    history = features.histories[name]
    yield history.ids.column, _type_of(features, assets, f"{name}/ids", history.ids)
    for key, attribute in history.attributes.items():
        if isinstance(attribute, NumberEvents):
            yield attribute.column, pa.float64()
        else:
            yield attribute.column, _type_of(features, assets, f"{name}/attributes/{key}", attribute)


def _type_of(features: FeaturesConfig, assets: Assets, name: str, column: SharedCodes) -> pa.DataType:
    table = features.table_of(name, column)
    return arrow_type(features.code_spaces[table], assets.get(table))


def encode_history(
    table: pa.Table, name: str, features: FeaturesConfig, assets: Assets, location: Location
) -> dict[str, Tensor]:
    """One history, L = `max_length`: the events of each row in their order, then padding with 0.

    `NAME/length`: [B] int64. `NAME/ids` and `NAME/attributes/KEY`: codes [B, L, codes of a value] int64, or numbers
    [B, L] float32, NaN where null. Raises DataError for a wrong type, and for rows whose lists differ in length.
    """
    history = features.histories[name]
    ids = _lists(table, history.ids.column, location)
    lengths = _lengths(ids)
    events = _RetainedEvents(lengths, history)

    def codes(key: str, coded: SharedCodes, column: str, lists: pa.Array) -> Tensor:
        table_name = features.table_of(key, coded)
        space = features.code_spaces[table_name]
        values = events.values(lists)
        return events.padded(codes_of(values, space, assets.get(table_name), column, location, events.rows))

    encoded = {
        f"{name}/length": torch.from_numpy(events.lengths),
        f"{name}/ids": codes(f"{name}/ids", history.ids, history.ids.column, ids),
    }
    for attribute_name, attribute in history.attributes.items():
        key, column = f"{name}/attributes/{attribute_name}", attribute.column
        lists = _lists(table, column, location)
        _check_lengths(_lengths(lists), lengths, column, history.ids.column, location)
        if isinstance(attribute, NumberEvents):
            encoded[key] = events.padded(_numbers(events.values(lists), column, location))
        else:
            encoded[key] = codes(key, attribute, column, lists)
    return encoded


class _RetainedEvents:
    """The events of each row that remain after `max_length` and `keep`, and their indices in the flattened lists."""

    def __init__(self, lengths: Integers, history: HistoryColumns) -> None:
        self.lengths = np.minimum(lengths, history.max_length)  # [B]
        ends = np.cumsum(lengths)
        starts = ends - (self.lengths if history.keep == "last" else lengths)
        columns = np.arange(history.max_length)
        self.mask = columns < self.lengths[:, None]  # [B, L]: which positions hold an event, not padding
        self.indices = (starts[:, None] + columns)[self.mask]  # [events]
        self.all = len(self.indices) == (ends[-1] if len(ends) else 0)
        self.rows = np.repeat(np.arange(len(lengths)), self.lengths)  # [events]

    def values(self, lists: pa.Array) -> pa.Array:
        """The values of the retained events, [events]."""
        values = decoded(lists.flatten())  # without values under null rows
        return values if self.all else values.take(pa.array(self.indices))

    def padded(self, values: npt.NDArray[Any]) -> Tensor:
        """[events, …] → [B, L, …]."""
        rows = np.zeros((*self.mask.shape, *values.shape[1:]), values.dtype)
        rows[self.mask] = values
        return torch.from_numpy(rows)


def _lists(table: pa.Table, name: str, location: Location) -> pa.Array:
    """The lists of a column, of any lengths."""
    array = decoded(as_one_array(table.column(name)))
    if pa.types.is_null(array.type):
        return pa.nulls(len(array), pa.list_(pa.null()))
    if not is_list(array.type):
        raise location.error(name, f"holds {array.type}, expected lists; a history is a list column")
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
        raise location.error(
            name, f"holds lists of {values.type}, expected numbers; for codes, set size, vocabulary, hash or table"
        )
    floats: npt.NDArray[np.float32] = floats_of(values).to_numpy(zero_copy_only=False)
    return floats
