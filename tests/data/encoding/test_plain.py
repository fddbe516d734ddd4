"""Small tables, whose plain columns are read in one call, are encoded as large ones, which are read by column."""

from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recap.config.features import FeaturesConfig
from recap.data.batch import Batch
from recap.data.encoding import plain
from recap.data.encoding.encoder import RowEncoder
from recap.data.formats.location import Location
from recap.errors import DataError

INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
VALUES: dict[str, st.SearchStrategy[Any]] = {
    **{name: st.integers(int(np.iinfo(name).min), int(np.iinfo(name).max)) | st.integers(0, 5) for name in INTEGERS},
    "float32": st.floats(width=32),
    "float64": st.floats(),
    "bool": st.booleans(),
}
FEATURES = FeaturesConfig(
    continuous=["a", "b", "c"], binary=["d", "e"], discrete={"f": {"size": 4}, "g": {"size": 300}}
)


@st.composite
def columns(draw: st.DrawFn, rows: int, kinds: tuple[str, ...], zero_or_one: bool = False) -> pa.Array:
    kind = draw(st.sampled_from(kinds))
    values = st.booleans() if kind == "bool" else st.integers(0, 1) if zero_or_one else VALUES[kind]
    values = values.map(float) if kind.startswith("float") else values
    nulls = draw(st.booleans())
    drawn = draw(st.lists(st.none() | values if nulls else values, min_size=rows, max_size=rows))
    return pa.array(drawn, {"float32": pa.float32(), "float64": pa.float64(), "bool": pa.bool_()}.get(kind, kind))


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    rows = draw(st.integers(1, 4))
    numbers = {name: draw(columns(rows, tuple(VALUES))) for name in "abc"}
    flags = {name: draw(columns(rows, tuple(VALUES), zero_or_one=True)) for name in "de"}
    return pa.table(numbers | flags | {name: draw(columns(rows, INTEGERS)) for name in "fg"})


def encode(table: pa.Table) -> Batch:
    return RowEncoder(FEATURES, {}).encode(table, Location("rows"))


@given(tables())
def test_plain_columns_are_read_bit_for_bit_as_by_column(table: pa.Table) -> None:
    at_once = encode(table)
    with patch.object(plain, "_FEW_ROWS", -1):
        by_column = encode(table)
    assert at_once.tensors().keys() == by_column.tensors().keys()
    for name, values in at_once.tensors().items():
        expected = by_column.tensors()[name]
        assert (values.dtype, values.shape) == (expected.dtype, expected.shape)
        np.testing.assert_array_equal(values.numpy(), expected.numpy())  # NaN equals NaN


def test_a_binary_column_with_another_value_is_named() -> None:
    table = pa.table({"d": [0, 1], "e": [1, 2]} | {name: [1, 2] for name in "abcfg"})
    with pytest.raises(DataError, match="'e', row 1: found 2, expected 0 or 1"):
        encode(table)
