"""Dtypes of columns, masked bits and values, and weights from sampling."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from data.encoders import LOCATION, make_encoder
from hypothesis import given
from hypothesis import strategies as st
from support import feed_config

from recap.config.features import FeaturesConfig
from recap.config.recap import JobMode
from recap.data.encoding.assets import load_assets
from recap.data.encoding.encoder import RowEncoder
from recap.data.open import open_stream
from recap.errors import DataError
from recap.model.calibration import Calibration


def encoded(column: dict[str, Any] | str, values: Any, role: str = "continuous") -> torch.Tensor:
    """The tensor of one column."""
    batch = make_encoder({role: [column]}).encode(pa.table({"x": values}), LOCATION)
    return batch.continuous if role == "continuous" else batch.binary


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_column_has_its_configured_dtype(dtype: str) -> None:
    values = [1.0009765625, -3.14159, 0.0, 65000.0, None]
    tensor = encoded({"name": "x", "dtype": dtype}, values)
    assert tensor.dtype == getattr(torch, dtype)
    expected = torch.tensor([value if value is not None else torch.nan for value in values]).to(tensor.dtype)
    assert torch.equal(tensor[:, 0].nan_to_num(7.0), expected.nan_to_num(7.0))


def test_columns_of_a_role_share_the_widest_dtype() -> None:
    columns = [{"name": "a", "dtype": "uint8"}, {"name": "b", "dtype": "bfloat16"}]
    table = pa.table({"a": [255.0, 3.7], "b": [0.5, 2.0]})
    batch = make_encoder({"continuous": columns, "binary": ["c"]}).encode(table.append_column("c", [[0, 1]]), LOCATION)
    assert batch.continuous.dtype == torch.bfloat16
    assert batch.continuous.tolist() == [[255.0, 0.5], [3.0, 2.0]]
    assert batch.binary.dtype == torch.float32


def test_flags_and_small_counts_can_be_bytes() -> None:
    assert encoded({"name": "x", "dtype": "uint8"}, [0, 1, None], "binary").tolist() == [[0], [1], [0]]
    flags = encoded({"name": "x", "dtype": "bool"}, [0.0, -2.5, None])
    assert flags.dtype == torch.bool
    assert flags.tolist() == [[False], [True], [False]]


@pytest.mark.parametrize(
    ("dtype", "values", "message"),
    [
        ("float16", [1.0, 1e6, -7e4], "row 101: holds 1e+06; float16 ends at 65504; use bfloat16"),
        ("uint8", [256.0, 1.0], "row 100: holds 256; uint8 holds 0 to 255"),
        ("uint8", [1.0, -1.0], "row 101: holds -1; uint8 holds 0 to 255"),
    ],
)
def test_a_value_outside_the_range_of_its_dtype_is_refused_with_its_row(
    dtype: str, values: list[float], message: str
) -> None:
    with pytest.raises(DataError, match=f"rows.parquet: column 'x', {re.escape(message)}"):
        encoded({"name": "x", "dtype": dtype}, values)


def test_infinity_stays_infinity_in_float16() -> None:
    assert encoded({"name": "x", "dtype": "float16"}, [float("inf")]).tolist() == [[float("inf")]]


@given(st.floats(width=32), st.integers(1, 23))
def test_masked_mantissa_bits_are_zero_and_the_others_unchanged(value: float, bits: int) -> None:
    tensor = encoded({"name": "x", "masked_mantissa_bits": bits}, [value])
    if np.isnan(value):
        assert tensor.isnan().all()
        return
    before, after = np.float32(value).view(np.uint32), tensor.numpy().view(np.uint32)[0, 0]
    assert after == before & ~np.uint32(2**bits - 1)


def test_a_vector_can_have_masked_bits_and_a_smaller_dtype(tmp_path: Path) -> None:
    vectors = {"v": {"length": 2, "masked_mantissa_bits": 23, "dtype": "bfloat16"}}
    table = pa.table({"v": pa.array([[1.9, -3.5], None], pa.list_(pa.float32(), 2))})
    tensor = make_encoder({"vectors": vectors}).encode(table, LOCATION).vectors["v"]
    assert tensor.dtype == torch.bfloat16
    assert tensor.tolist() == [[1.0, -2.0], [0.0, 0.0]]


def test_a_mask_selects_the_values_where_it_is_not_zero(tmp_path: Path) -> None:
    np.save(tmp_path / "mask.npy", np.array([0.0, 2.0, 1.0]))
    features = FeaturesConfig.model_validate(
        {"continuous": [{"name": "x", "length": 4, "first": 3, "mask": str(tmp_path / "mask.npy")}, "y"]}
    )
    table = pa.table({"x": pa.array([[1, 2, 3, 4], None], pa.list_(pa.float32(), 4)), "y": [5, 6]})
    batch = RowEncoder(features, load_assets(features)).encode(table, LOCATION)
    assert batch.continuous.nan_to_num(-1).tolist() == [[2, 3, 5], [-1, -1, 6]]


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ([1, 1], r"found int64 of shape \(2,\), expected 3 numbers, one for each value that is read"),
        ([[1, 1, 1]], r"found int64 of shape \(1, 3\)"),
        (["a", "b", "c"], r"found <U1 of shape"),
        ([0, 0, 0], "masks every value; leave the column out instead"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(mask: Any, message: str, tmp_path: Path) -> None:
    np.save(tmp_path / "mask.npy", np.array(mask))
    column = {"name": "x", "length": 3, "mask": str(tmp_path / "mask.npy")}
    with pytest.raises(DataError, match=f"mask.npy: mask of 'x': {message}"):
        load_assets(FeaturesConfig.model_validate({"binary": [column]}))


def test_a_file_that_is_not_a_mask_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mask.npy"
    features = FeaturesConfig.model_validate({"binary": [{"name": "x", "length": 3, "mask": str(file)}]})
    with pytest.raises(DataError, match=r"mask.npy: mask of 'x': no such file"):
        load_assets(features)
    for content in (b"", b"nothing of the kind"):
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"mask of 'x': not readable as a NumPy file \(.npy\) of numbers"):
            load_assets(features)
    np.save(file, np.array([{}]), allow_pickle=True)
    with pytest.raises(DataError, match=r"mask of 'x': not readable as a NumPy file"):
        load_assets(features)


def test_training_weights_undo_sampling_if_configured(feed: Path) -> None:
    tasks = {"like": {"neg_downsampling_rate": 0.5}, "share": {"pos_downsampling_rate": 0.25}}
    for correction in ("calibration", "weights"):
        source = {"inputs": str(feed / "train" / "*.parquet")}
        config = feed_config(
            feed, feed / "run", train_data={"source": source, "tasks": tasks, "sampling_correction": correction}
        )
        batch = next(iter(open_stream(config, load_assets(config.features), JobMode.TRAIN)))
        assert batch.labels is not None
        assert batch.weights is not None
        factors = torch.stack([2.0 - batch.labels[:, 0], 1.0 + 3 * batch.labels[:, 1]], dim=1)
        assert torch.equal(batch.weights, factors if correction == "weights" else torch.ones_like(factors))
        ratios = Calibration.of(config).ratios
        assert ratios.tolist() == ([1, 1] if correction == "weights" else [0.5, 4])
