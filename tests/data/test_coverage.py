"""How many values of each feature are unknown or missing."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from recap.config.features import FeaturesConfig
from recap.data.coverage import Coverage, check_known, describe, too_unknown
from recap.data.encoding.assets import load_assets
from recap.data.encoding.encoder import RowEncoder
from recap.data.formats.location import Location
from recap.errors import DataError


@pytest.fixture
def encoder(tmp_path: Path) -> RowEncoder:
    pq.write_table(pa.table({"value": ["a", "b"]}), tmp_path / "words.parquet")
    features = FeaturesConfig.model_validate(
        {
            "continuous": [{"name": "wide", "length": 2}, {"name": "age"}],
            "binary": [{"name": "flag"}],
            "discrete": {
                "code": {"size": 3},
                "pair": {"size": 3, "length": 2},
                "word": {"vocabulary": str(tmp_path / "words.parquet")},
                "hashed": {"hash": {"buckets": 10, "hashes": 2}},
                "position": {"size": 3},
            },
            "vectors": {"v": {"length": 2}},
            "histories": {
                "seen": {
                    "ids": {"column": "seen_ids", "size": 3},
                    "attributes": {"gap": {"column": "gaps"}, "kind": {"column": "kinds", "hash": {"buckets": 5}}},
                    "max_length": 4,
                }
            },
        }
    )
    return RowEncoder(features, load_assets(features), unread={"position"})


TABLE = pa.table(
    {
        "wide": pa.array([[1.0, None], [float("inf"), 1.0], None, [1.0, 2.0]], pa.list_(pa.float32())),
        "age": [1.0, 2.0, float("nan"), 4.0],
        "flag": [True, None, False, True],
        "code": [0, 3, -1, None],
        "pair": pa.array([[0, 1], [9, 9], None, [0, None]], pa.list_(pa.int64())),
        "word": ["a", "x ", None, "b"],
        "hashed": ["q", None, "r", "s"],
        "v": pa.array([[1, 2], [0, 0], None, [float("nan"), float("nan")]], pa.list_(pa.float32())),
        "seen_ids": pa.array([[0, 9], [], None, [None]], pa.list_(pa.int64())),
        "gaps": pa.array([[1, None], [], None, [float("inf")]], pa.list_(pa.float32())),
        "kinds": pa.array([["a", None], [], None, ["b"]], pa.list_(pa.string())),
    }
)
# feature → values, blank, missing
COUNTS = {
    "wide": (8, 4, 4),
    "age": (4, 1, 1),
    "flag": (4, 1, 1),
    "code": (4, 3, 1),
    "pair": (8, 5, 3),
    "word": (4, 2, 1),
    "hashed": (4, 1, 1),
    "v": (4, 3, 3),
    "seen/ids": (3, 2, 1),
    "seen/attributes/gap": (3, 2, 2),
    "seen/attributes/kind": (3, 1, 1),
}


def test_a_table_separates_unknown_missing_and_known_values_of_every_kind_of_feature(encoder: RowEncoder) -> None:
    coverage = Coverage(encoder)
    for start in (0, 1, 3):
        part = TABLE.slice(start, 2 if start == 1 else 1)
        coverage.add(encoder.encode(part, Location("t")), part)
    counts = {count.feature: (count.values, count.blank, count.missing) for count in coverage.result()}
    assert counts == COUNTS
    examples = {count.feature: count.example for count in coverage.result() if count.example is not None}
    assert examples == {"code": 3, "pair": 9, "word": "x "}
    assert coverage.rows == 4


def test_batches_alone_count_unknown_and_missing_values_together(encoder: RowEncoder) -> None:
    coverage = Coverage(encoder)
    batch = encoder.encode(TABLE, Location("t"))
    coverage.add(batch.rows(slice(0, 3)))
    coverage.add(batch.rows(torch.tensor([3])))
    counts = {count.feature: (count.values, count.blank) for count in coverage.result()}
    expected = {name: values[:2] for name, values in COUNTS.items()}
    assert counts == expected | {"flag": (4, 0)}  # in a batch, a missing binary value is 0


def coverage_of(encoder: RowEncoder, **columns: object) -> Coverage:
    """2,000 rows whose other columns are as in the first row of TABLE."""
    first = TABLE.slice(0, 1)
    table = pa.concat_tables([first] * 2000)
    for name, values in columns.items():
        table = table.set_column(table.schema.names.index(name), name, pa.array(values))
    coverage = Coverage(encoder)
    coverage.add(encoder.encode(table, Location("t")), table)
    return coverage


def test_the_largest_shares_are_listed_in_one_line(encoder: RowEncoder) -> None:
    coverage = coverage_of(encoder, code=[7] * 1999 + [0], age=[np.nan] * 2000, hashed=["q"] * 1900 + [None] * 100)
    line = describe(coverage.result(), coverage.rows)
    missing = "age 100%, wide 50.0%, seen/attributes/gap 50.0%, seen/attributes/kind 50.0%"
    assert line == f"unknown values: code 99.9%, seen/ids 50.0%; missing values: {missing} (of 2,000 rows)"
    assert describe([count for count in coverage.result() if count.feature == "hashed"], 2000) is None
    assert describe([], 0) is None


def test_a_feature_without_a_known_value_is_an_error_unless_all_are_missing(encoder: RowEncoder) -> None:
    check_known(coverage_of(encoder, age=[None] * 2000, code=pa.nulls(2000)).result(), None, "train_data")
    counts = coverage_of(encoder, word=["x" * 100] * 2000).result()
    with pytest.raises(DataError) as caught:
        check_known(counts, None, "train_data")
    assert str(caught.value) == (
        f"train_data: features.discrete.word: none of the 2,000 values of 'word' is known, such as '{'x' * 58}…. Check "
        "the column, and its size or vocabulary; features.max_unknown: 1 accepts it"
    )
    check_known(counts, 1.0, "train_data")
    few = coverage_of(encoder, word=["x"] * 999 + ["a"] * 1001)
    assert too_unknown(few.result(), None) == []


def test_a_limit_is_a_share_of_unknown_missing_and_infinite_values(encoder: RowEncoder) -> None:
    counts = coverage_of(encoder, age=[None] * 500 + [np.inf] * 500 + [1.0] * 1000, code=[0] * 2000).result()
    assert [count.feature for count in too_unknown(counts, 0.49)] == [
        "wide", "age", "seen/ids", "seen/attributes/gap", "seen/attributes/kind",
    ]  # fmt: skip
    assert too_unknown(counts, 0.5) == []
    with pytest.raises(DataError, match=r"features.continuous.1: 50.0% of the values of 'age' are unknown, missing or"):
        check_known(counts, 0.4, "validation")
