"""Feature columns of a table as tensors, and the errors for columns that cannot be used."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data.encoders import LOCATION, TASKS, make_encoder
from support import feed_config, feed_table, feed_values, write_feed

from recap.config.features import FeaturesConfig
from recap.config.recap import JobMode
from recap.data.encoding.assets import load_assets
from recap.data.open import open_stream
from recap.errors import DataError


def test_columns_are_in_the_order_of_the_configuration() -> None:
    table = pa.table({"b": [1, 2], "a": [0.5, None], "c": [True, False]})
    batch = make_encoder({"continuous": ["a", "b"], "binary": ["c"]}).encode(table, LOCATION)
    assert batch.continuous.nan_to_num(-1).tolist() == [[0.5, 1.0], [-1.0, 2.0]]
    assert batch.binary.tolist() == [[1.0], [0.0]]
    assert batch.discrete.shape == (2, 0)


def test_each_value_of_a_fixed_size_list_is_a_column() -> None:
    lists = pa.array([[1.0, 2.0], None, [3.0, None]], pa.list_(pa.float32(), 2))
    features = {"continuous": [{"name": "x", "length": 2}], "vectors": {"v": 2}}
    batch = make_encoder(features).encode(pa.table({"x": lists, "v": lists}), LOCATION)
    assert batch.continuous.nan_to_num(-1).tolist() == [[1, 2], [-1, -1], [3, -1]]
    assert batch.vectors["v"].tolist() == [[1, 2], [0, 0], [3, 0]]


def test_values_of_a_vector_that_are_not_finite_count_as_zero() -> None:
    lists = pa.array([[1.0, np.nan], [np.inf, 2.0], [-np.inf, None], [3.0, 4.0], None], pa.list_(pa.float64(), 2))
    encoder = make_encoder({"vectors": {"v": 2}})
    encoded = encoder.encode(pa.table({"v": lists}), LOCATION).vectors["v"]
    assert encoded.tolist() == [[1, 0], [0, 2], [0, 0], [3, 4], [0, 0]]
    many = pa.FixedSizeListArray.from_arrays(pa.array([1e18] * 2000, pa.float32()), 2)  # long only together
    assert encoder.encode(pa.table({"v": many}), LOCATION).vectors["v"].sum() == pytest.approx(2e21)
    with pytest.raises(DataError, match=r"'v', row 101: holds 1e\+20; the squared length of the vector overflows"):
        encoder.encode(pa.table({"v": [[np.nan, 1.0], [1.0, 1e20]]}), LOCATION)


def test_a_column_without_a_type_is_missing_in_every_row() -> None:
    features = {
        "continuous": ["n", {"name": "ns", "length": 2}, {"name": "e", "of": {"column": "es", "index": 1}}],
        "binary": ["b"],
        "discrete": {
            "c": {"size": 2},
            "word": {"vocabulary": "w"},
            "h": {"hash": {"buckets": 3}},
            "cs": {"size": 2, "length": 2},
        },
        "vectors": {"v": 2},
        "histories": {"p": {"ids": {"column": "ids", "size": 3}, "attributes": {"a": {"column": "as"}}}},
    }
    encoder = make_encoder(features, TASKS)
    empty = pa.table({name: pa.nulls(2) for name in encoder.columns})
    encoder.check(empty.schema, LOCATION.file)
    batch = encoder.encode(empty, LOCATION)
    assert batch.continuous.isnan().all()
    numbers = {name: tensor for name, tensor in batch.tensors().items() if name != "continuous"}
    assert all(not tensor.any() for tensor in numbers.values())
    nulls = pa.array([[None, None], None], pa.list_(pa.null()))
    fixed = pa.FixedSizeListArray.from_arrays(pa.nulls(4), 2)
    for lists in (nulls, fixed):
        columns = dict.fromkeys(("ns", "es", "cs", "v", "ids", "as"), lists)
        assert encoder.encode(pa.table({**empty.to_pydict(), **columns}), LOCATION)
    with pytest.raises(DataError, match="column 'u', row 100: is null; every row needs a user"):
        make_encoder({"continuous": ["n"], "user": "u"}, TASKS).encode(empty.append_column("u", pa.nulls(2)), LOCATION)


def test_a_slice_of_a_list_column_has_its_own_rows() -> None:
    lists = pa.array([[1.0, 2.0], None, [3.0, 4.0]], pa.list_(pa.float32(), 2))
    batch = make_encoder({"vectors": {"v": 2}}).encode(pa.table({"v": lists}).slice(1), LOCATION)
    assert batch.vectors["v"].tolist() == [[0, 0], [3, 4]]


def test_codes_count_from_one_and_unknown_values_are_zero() -> None:
    table = pa.table({"hour": [0, 23, 24, -1, None], "word": ["a", "b", "c", None, "a"]})
    features = {"discrete": {"hour": {"size": 24}, "word": {"vocabulary": "w"}}}
    batch = make_encoder(features).encode(table, LOCATION)
    assert batch.discrete.tolist() == [[1, 1], [24, 2], [0, 0], [0, 0], [0, 1]]


def test_dictionary_columns_are_decoded() -> None:
    table = pa.table({"word": pa.array(["b", "zz", "b"]).dictionary_encode()})
    batch = make_encoder({"discrete": {"word": {"vocabulary": "w"}}}).encode(table, LOCATION)
    assert batch.discrete.tolist() == [[2], [0], [2]]


def test_each_value_of_a_list_of_codes_has_a_code() -> None:
    table = pa.table({"topics": [[1, 2], [3, 99]]})
    batch = make_encoder({"discrete": {"topics": {"size": 4, "length": 2}}}).encode(table, LOCATION)
    assert batch.discrete.tolist() == [[2, 3], [4, 0]]


@pytest.mark.parametrize(
    ("features", "columns", "message"),
    [
        ({"continuous": ["x"]}, {"x": ["a"]}, "rows.parquet: column 'x': holds string, expected numbers"),
        ({"binary": ["x"]}, {"x": [0, 2]}, "column 'x', row 101: found 2, expected 0 or 1"),
        ({"vectors": {"x": 3}}, {"x": [[1.0, 2.0]]}, "column 'x', row 100: holds a list of length 2, expected 3"),
        ({"vectors": {"x": 3}}, {"x": [1.0]}, "column 'x': holds double, expected lists of 3 values"),
        ({"discrete": {"x": {"size": 3}}}, {"x": [1.5]}, "column 'x', row 100: found 1.5, expected a whole number"),
        (
            {"discrete": {"word": {"vocabulary": "w"}}},
            {"word": [True]},
            "column 'word': holds bool, expected strings, as in its vocab",
        ),
        ({"continuous": ["y"]}, {"x": [1.0]}, "column 'y': is missing, but .* Known: x"),
    ],
)
def test_an_unusable_column_is_refused_with_its_location(
    features: dict[str, Any], columns: dict[str, list[Any]], message: str
) -> None:
    table, rows = pa.table(columns), make_encoder(features)

    def read() -> None:
        rows.check(table.schema, LOCATION.file)
        rows.encode(table, LOCATION)

    with pytest.raises(DataError, match=message):
        read()


def test_a_bad_label_is_reported_by_its_row_in_the_file(tmp_path: Path) -> None:
    write_feed(tmp_path)
    table = feed_table(300, seed=5)
    likes = table.column("like").to_numpy().copy()
    likes[217] = 7
    table = table.set_column(table.schema.get_field_index("like"), "like", pa.array(likes))
    pq.write_table(table, tmp_path / "validation" / "part-0.parquet", row_group_size=100)
    config = feed_config(tmp_path, tmp_path / "run")
    stream = open_stream(config, load_assets(config.features), JobMode.EVALUATE, "validation")
    with pytest.raises(DataError, match=r"part-0.parquet: column 'like', row 217: found 7"):
        list(stream)


def test_a_glob_without_a_match_is_refused(tmp_path: Path) -> None:
    values = feed_values(write_feed(tmp_path), tmp_path / "run")
    config = feed_config(
        tmp_path,
        tmp_path / "run",
        train_data={**values["train_data"], "source": {"inputs": "nowhere/*.parquet"}},
    )
    with pytest.raises(DataError, match=r"nowhere/\*.parquet: matches no file"):
        open_stream(config, load_assets(config.features), JobMode.TRAIN)


def test_files_that_are_not_parquet_or_truncated_are_refused_by_name(tmp_path: Path) -> None:
    config = feed_config(write_feed(tmp_path), tmp_path / "run")
    assets = load_assets(config.features)
    file = tmp_path / "train" / "part-1.parquet"
    data = file.read_bytes()
    for content in (b"not parquet at all", data[: len(data) // 2]):
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"part-1.parquet: not readable as Parquet"):
            open_stream(config, assets, JobMode.TRAIN)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({"value": ["a", "b", "a"]}), "row 2 repeats 'a'"),
        (pa.table({"value": ["a", None]}), "row 1 is null"),
        (pa.table({"value": [[1]]}), "column 'value': holds list<.*>, expected strings or integers"),
        (pa.table({"value": [1.0, 0.5]}), "column 'value', row 1: found 0.5, expected a whole number"),
    ],
)
def test_an_unusable_vocabulary_is_refused(tmp_path: Path, table: pa.Table, message: str) -> None:
    path = tmp_path / "words.parquet"
    pq.write_table(table, path)
    features = FeaturesConfig.model_validate({"discrete": {"word": {"vocabulary": str(path)}}})
    with pytest.raises(DataError, match=message):
        load_assets(features)


def test_numbers_of_every_width_become_float32() -> None:
    kinds = [pa.int8(), pa.uint16(), pa.int64(), pa.float16(), pa.float32(), pa.float64(), pa.bool_()]
    for kind in kinds:
        values = [True, False] if pa.types.is_boolean(kind) else np.array([1, 0]).astype(kind.to_pandas_dtype())
        batch = make_encoder({"continuous": ["x"]}).encode(pa.table({"x": pa.array(values, kind)}), LOCATION)
        assert batch.continuous.tolist() == [[1.0], [0.0]], kind


def test_a_feature_can_be_one_value_of_a_list() -> None:
    topics = pa.array([[5, 6], [7, 8], None], pa.list_(pa.int64(), 2))
    numbers = pa.array([[0.5, 1.5], [2.5, 3.5], [4.5, 5.5]])
    features = {
        "continuous": [{"name": "second", "of": {"column": "numbers", "index": 1}}],
        "discrete": {"first": {"size": 10, "of": {"column": "topics", "index": 0}}},
    }
    encoder = make_encoder(features)
    assert encoder.columns == ["numbers", "topics"]
    batch = encoder.encode(pa.table({"topics": topics, "numbers": numbers}), LOCATION)
    assert batch.continuous.tolist() == [[1.5], [3.5], [5.5]]
    assert batch.discrete.tolist() == [[6], [8], [0]]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([[1, 2]], pa.list_(pa.int64(), 2)), "column 'topics': holds lists of length 2, without element 3"),
        (pa.array([[1] * 4, [1]]), "column 'topics', row 101: holds a list of length 1, without element 3"),
        (pa.array([1]), "column 'topics': holds int64, expected lists, to read element 3 of each"),
    ],
)
def test_a_list_that_is_too_short_is_refused(column: pa.Array, message: str) -> None:
    encoder = make_encoder({"discrete": {"topic": {"size": 10, "of": {"column": "topics", "index": 3}}}})
    with pytest.raises(DataError, match=message):
        encoder.encode(pa.table({"topics": column}), LOCATION)
