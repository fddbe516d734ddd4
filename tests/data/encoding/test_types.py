"""Every Arrow type in every kind of column: read as the values it stands for, or refused in one line."""

import json
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from data.encoders import LOCATION

from recap.config.data import DataTaskConfig, RectifyLabelsConfig
from recap.config.features import CarriedColumn, FeaturesConfig
from recap.config.loss import RegressionConfig
from recap.data.batch import Batch
from recap.data.encoding.columns import carried_values
from recap.data.encoding.encoder import RowEncoder
from recap.data.encoding.labels import LabelEncoder
from recap.data.formats.tables import TableFiles
from recap.errors import DataError

BITS = pa.array([1, 0, 1])
TEXT = pa.array(["1", "0", "1"])
UUIDS = pa.array([UUID(int=1).bytes, UUID(int=2).bytes, UUID(int=1).bytes], pa.binary(16))
NOW = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)
TIMES: list[tuple[Any, pa.DataType]] = [
    *((date(2024, 5, 6), kind) for kind in (pa.date32(), pa.date64())),
    *((time(7, 8), kind) for kind in (pa.time32("s"), pa.time32("ms"), pa.time64("us"), pa.time64("ns"))),
    *((timedelta(hours=1), pa.duration(unit)) for unit in ("s", "ms", "us", "ns")),
    ((1, 2, 3), pa.month_day_nano_interval()),
]
TIMESTAMPS = [pa.timestamp(unit, zone) for unit in ("s", "ms", "us", "ns") for zone in (None, "UTC", "Asia/Tokyo")]


def encoded(values: pa.Array) -> list[pa.Array]:
    """The values, and the same as a dictionary and run-end encoded."""
    return [values, values.dictionary_encode(), pc.run_end_encode(values)]


FAMILIES: dict[str, list[pa.Array]] = {
    "integers": [
        *(BITS.cast(getattr(pa, f"{sign}int{bits}")()) for sign in ("", "u") for bits in (8, 16, 32, 64)),
        *encoded(BITS),
        pa.ExtensionArray.from_storage(pa.bool8(), BITS.cast(pa.int8())),
    ],
    "booleans": [*encoded(BITS.cast(pa.bool_()))],
    "numbers": [
        *(BITS.cast(kind) for kind in (pa.float16(), pa.float32())),
        *encoded(BITS.cast(pa.float64())),
        *(pa.array(BITS.to_pylist(), kind) for kind in (pa.decimal32(3, 1), pa.decimal64(3, 1))),
        *(pa.array(BITS.to_pylist(), kind) for kind in (pa.decimal128(3, 1), pa.decimal256(3, 1))),
    ],
    "text": [
        *encoded(TEXT),
        *(TEXT.cast(kind) for kind in (pa.large_string(), pa.string_view(), pa.json_())),
        *(TEXT.cast(pa.binary()).cast(kind) for kind in (pa.binary(), pa.large_binary(), pa.binary_view())),
        pa.array([b"1", b"0", b"1"], pa.binary(1)),
    ],
    "UUIDs": [UUIDS, UUIDS.cast(pa.uuid()), UUIDS.dictionary_encode()],
    "timestamps": [pa.array([NOW] * 3, kind) for kind in TIMESTAMPS],
    "times": [pa.array([value] * 3, kind) for value, kind in TIMES],
    "nested": [
        pa.array([{"a": 1}] * 3),
        pa.array([[("a", 1)]] * 3, pa.map_(pa.string(), pa.int64())),
        pa.array([[[1]]] * 3),
        pa.UnionArray.from_sparse(pa.array([0] * 3, pa.int8()), [BITS]),
    ],
}
NUMBERS = {"integers", "booleans", "numbers"}
IDS = {"integers", "numbers", "text", "UUIDs"}
WORDS = {"vocabulary": pa.array(["0", "1", str(UUID(int=1)), str(UUID(int=2))]), "codes": pa.array([0, 1])}
LABEL = {"continuous": ["number"]}
TABLES = {"hash": {"hash": {"buckets": 9}}, "size": {"size": 2}, "vocabulary": {"vocabulary": "w"}}
SCALARS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "continuous": ({"continuous": ["x"]}, NUMBERS),
    "binary": ({"binary": ["x"]}, NUMBERS),
    "size": ({"discrete": {"x": {"size": 2}}}, NUMBERS | {"text"}),
    "vocabulary of integers": ({"discrete": {"codes": {"vocabulary": "w"}}}, NUMBERS | {"text"}),
    "vocabulary of strings": ({"discrete": {"vocabulary": {"vocabulary": "w"}}}, IDS),
    "hash": ({"discrete": {"x": {"hash": {"buckets": 9}}}}, IDS),
    "label": (LABEL, NUMBERS),
    "number as a label": (LABEL, NUMBERS),
    "user": (LABEL | {"user": "x"}, IDS),
    "time": (LABEL, {"integers", "booleans", "numbers", "text", "timestamps"}),
}
LISTS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "numbers": ({"continuous": [{"name": "x", "length": 3}]}, NUMBERS),
    "vector": ({"vectors": {"x": 3}}, NUMBERS),
    "element": ({"continuous": [{"name": "y", "of": {"column": "x", "index": 1}}]}, NUMBERS),
    "codes": ({"discrete": {"x": {"size": 2, "length": 3}}}, NUMBERS | {"text"}),
    "ids": ({"discrete": {"x": {"hash": {"buckets": 9}, "length": 3}}}, IDS),
    "words": ({"discrete": {"vocabulary": {"vocabulary": "w", "length": 3}}}, IDS),
    "history of codes": ({"histories": {"h": {"ids": {"column": "x", "size": 2}}}}, NUMBERS | {"text"}),
    "history of ids": ({"histories": {"h": {"ids": {"column": "x", "hash": {"buckets": 9}}}}}, IDS),
    "history of numbers": (
        {"histories": {"h": {"ids": {"column": "ids", "size": 2}, "attributes": {"a": {"column": "x"}}}}},
        NUMBERS,
    ),
}


def batch_of(role: str, features: dict[str, Any], column: pa.Array | pa.ChunkedArray) -> Batch:
    config = FeaturesConfig.model_validate(features)
    labels = LabelEncoder(["x"], {}, user=config.user)
    if "label" in role:
        regressions = {"x": RegressionConfig.model_validate({"kind": "regression"})} if "number" in role else {}
        labels = LabelEncoder(["x"], {"x": DataTaskConfig()}, regressions=regressions)
    if role == "time":
        rectify = RectifyLabelsConfig(served_at="x", impressed_at="x", engaged_at={"like": "x"})
        labels = LabelEncoder(["like"], {"like": DataTaskConfig()}, rectify)
    name = next(iter(config.discrete), "x")
    rows = len(column)
    table = pa.table({name: column, "number": [0.5] * rows, "like": [1] * rows, "ids": [[1, 1, 1], None, None][:rows]})
    encoder = RowEncoder(config, WORDS, labels)
    encoder.check(table.schema, LOCATION.file)
    return encoder.encode(table, LOCATION)


def assert_read_or_refused(
    roles: dict[str, tuple[dict[str, Any], set[str]]], family: str, column: Any, expected: Any
) -> None:
    for role, (features, accepted) in roles.items():
        if family not in accepted:
            with pytest.raises(DataError, match=r"^rows.parquet: column '.*': holds .*, expected .*") as refused:
                batch_of(role, features, column)
            assert len(str(refused.value).splitlines()) == 1
            continue
        tensors, same = (batch_of(role, features, values).tensors() for values in (column, expected))
        for name, tensor in tensors.items():
            assert torch.equal(tensor.nan_to_num(-1), same[name].nan_to_num(-1)), (role, name, column.type)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_value_is_read_alike_from_every_type_that_can_hold_it(family: str) -> None:
    expected = pa.array([str(UUID(bytes=value)) for value in UUIDS.to_pylist()]) if family == "UUIDs" else BITS
    if family == "timestamps":
        expected = pa.array([int(NOW.timestamp() * 1000)] * 3)
    for values in FAMILIES[family]:
        column = pa.chunked_array([values.slice(0, 2), values.slice(2)])
        assert_read_or_refused(SCALARS, family, column, expected)
        copied = carried_values(pa.table({"x": column}), CarriedColumn(name="x"), LOCATION)
        assert copied.to_pylist() == column.to_pylist()


def lists_of(values: pa.Array) -> list[pa.Array]:
    """A list of three values, then null, in every type of list."""
    missing, offsets, starts, sizes = pa.array([False, True]), pa.array([0, 3, 3]), pa.array([0, 0]), pa.array([3, 0])
    return [
        pa.ListArray.from_arrays(offsets.cast(pa.int32()), values, mask=missing),
        pa.LargeListArray.from_arrays(offsets, values, mask=missing),
        pa.ListViewArray.from_arrays(starts.cast(pa.int32()), sizes.cast(pa.int32()), values, mask=missing),
        pa.LargeListViewArray.from_arrays(starts, sizes, values, mask=missing),
        pa.FixedSizeListArray.from_arrays(pa.concat_arrays([values] * 2), 3, mask=missing),
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_list_is_read_alike_from_every_type_of_list(family: str) -> None:
    expected = pa.array([str(UUID(bytes=value)) for value in UUIDS.to_pylist()]) if family == "UUIDs" else BITS
    reference = lists_of(expected)[-1]
    for index, values in enumerate(FAMILIES[family]):
        lists = lists_of(values)
        for column in lists if index == 0 or values.type == pa.string_view() else lists[:1]:
            assert_read_or_refused(LISTS, family, column, reference)


def test_the_same_ids_have_the_same_codes_and_users_from_every_format(tmp_path: Path) -> None:
    ids = ["7", "007", "ann", "-12", str(2**63), "9007199254740993", "7"]
    table = pa.table({"item": ids, "user": ids, "number": [0.5] * len(ids)})
    pq.write_table(table, tmp_path / "rows.parquet")
    (tmp_path / "rows.csv").write_text("item,user,number\n" + "".join(f"{name},{name},0.5\n" for name in ids))
    numbers = [int(name) if name.lstrip("-").isdigit() and name[0] != "0" else name for name in ids]
    lines = [{"item": name, "user": number, "number": 0.5} for name, number in zip(ids, numbers, strict=True)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    features = {"discrete": {"item": {"hash": {"buckets": 1000}}}, "user": "user"}
    encoder = RowEncoder(FeaturesConfig.model_validate(features), {}, LabelEncoder([], {}, user="user"))
    batches = []
    for kind in ("parquet", "csv", "jsonl"):
        files = TableFiles.open([str(tmp_path / f"rows.{kind}")], types=encoder.types)
        batches.append(encoder.encode(next(files.tables(encoder.columns))[1], LOCATION))
    for batch in batches:
        assert torch.equal(batch.discrete, batches[0].discrete)
        assert batch.user is not None
        assert len(set(batch.user.tolist())) == len(set(ids))
        assert (batch.user[0], batch.user[5]) == (7, 9007199254740993)


def test_the_same_numbers_have_the_same_bits_from_every_format_and_type(tmp_path: Path) -> None:
    numbers = [Decimal("1.00000005960464477539"), Decimal("0.1"), Decimal("-57.839999999999"), Decimal(2**53 + 2**29)]
    features = FeaturesConfig.model_validate({"continuous": ["x"], "vectors": {"v": 2}})
    encoder = RowEncoder(features, {})
    lines = [{"x": float(number), "v": [float(number), 1.5]} for number in numbers]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    irregular = [*lines, {"x": True, "v": [1, 2]}]  # which is read value by value
    (tmp_path / "slow.jsonl").write_text("".join(json.dumps(line) + "\n" for line in irregular))
    decimals = pa.array(numbers, pa.decimal128(38, 20))
    pq.write_table(
        pa.table({"x": decimals, "v": [[number, 1.5] for number in map(float, numbers)]}), tmp_path / "d.parquet"
    )
    pq.write_table(pa.Table.from_pylist(lines), tmp_path / "rows.parquet")
    expected = torch.from_numpy(np.array(numbers, np.float64).astype(np.float32))
    for name in ("rows.jsonl", "slow.jsonl", "rows.parquet", "d.parquet"):
        files = TableFiles.open([str(tmp_path / name)], types=encoder.types)
        batch = encoder.encode(next(files.tables(encoder.columns))[1], LOCATION).rows(slice(0, len(numbers)))
        assert torch.equal(batch.continuous[:, 0], expected)
        assert torch.equal(batch.vectors["v"][:, 0], expected)


def test_copied_columns_are_read_as_text_for_predictions_unless_the_model_reads_them_as_floats() -> None:
    features = FeaturesConfig.model_validate(
        {
            "continuous": ["age", {"name": "first", "of": {"column": "many", "index": 0}}],
            "discrete": {"hour": {"size": 24}, "item": {"hash": {"buckets": 9}, "length": 2}},
            "histories": {"h": {"ids": {"column": "seen", "size": 3}}},
            "ids": ["age", "hour", "seen", "tab", {"name": "part", "of": {"column": "many", "index": 1}}],
            "user": "user",
        }
    )
    numbers, texts = pa.list_(pa.float64()), pa.list_(pa.string())
    training = {"age": pa.float64(), "many": numbers, "hour": pa.int64(), "item": texts, "seen": pa.list_(pa.int64())}
    assert RowEncoder(features, {}, LabelEncoder([], {})).types == training
    assert RowEncoder(features, {}).types == training | {
        "hour": pa.string(),
        "seen": texts,
        "tab": pa.string(),
        "user": pa.string(),
    }


def test_nan_among_floats_is_missing_in_every_kind_of_column() -> None:
    for role, (features, _) in SCALARS.items():
        nan, null = pa.array([1.0, np.nan, 1.0]), pa.array([1, None, 1])
        if role in ("user", "time"):
            for column in (nan, null):
                with pytest.raises(DataError, match="row 101: is null"):
                    batch_of(role, features, column)
            continue
        tensors, same = batch_of(role, features, nan).tensors(), batch_of(role, features, null).tensors()
        assert all(torch.equal(tensor.nan_to_num(-1), same[name].nan_to_num(-1)) for name, tensor in tensors.items())


def test_integers_beyond_64_signed_bits_are_unknown_or_text() -> None:
    large = pa.array([2**64 - 1, 0], pa.uint64())
    text = large.cast(pa.string())
    for role in ("size", "vocabulary of integers"):
        assert batch_of(role, SCALARS[role][0], large).discrete.tolist() == [[0], [1]]
    for role in ("hash", "vocabulary of strings"):
        assert torch.equal(*(batch_of(role, SCALARS[role][0], values).discrete for values in (large, text)))
