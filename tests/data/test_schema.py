from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from data.encoding import PLACE, encoder
from hypothesis import given
from hypothesis import strategies as st
from support import feed_config, feed_table, feed_values, write_feed

from recap.config.data import DataTaskConfig, RectifyLabelsConfig
from recap.config.features import FeaturesConfig
from recap.config.recap import JobMode
from recap.data.encoding.assets import load_assets
from recap.data.open import open_stream
from recap.errors import DataError


def test_columns_stand_in_the_order_of_the_configuration() -> None:
    table = pa.table({"b": [1, 2], "a": [0.5, None], "c": [True, False]})
    batch = encoder({"continuous": ["a", "b"], "binary": ["c"]}).encode(table, PLACE)
    assert batch.continuous.nan_to_num(-1).tolist() == [[0.5, 1.0], [-1.0, 2.0]]
    assert batch.binary.tolist() == [[1.0], [0.0]]
    assert batch.discrete.shape == (2, 0)


def test_a_fixed_size_list_counts_as_that_many_columns_and_a_null_row_as_nothing() -> None:
    lists = pa.array([[1.0, 2.0], None, [3.0, None]], pa.list_(pa.float32(), 2))
    features = {"continuous": [{"name": "x", "length": 2}], "vectors": {"v": 2}}
    batch = encoder(features).encode(pa.table({"x": lists, "v": lists}), PLACE)
    assert batch.continuous.nan_to_num(-1).tolist() == [[1, 2], [-1, -1], [3, -1]]
    assert batch.vectors["v"].tolist() == [[1, 2], [0, 0], [3, 0]]


def test_a_slice_of_a_list_column_keeps_its_own_rows() -> None:
    lists = pa.array([[1.0, 2.0], None, [3.0, 4.0]], pa.list_(pa.float32(), 2))
    batch = encoder({"vectors": {"v": 2}}).encode(pa.table({"v": lists}).slice(1), PLACE)
    assert batch.vectors["v"].tolist() == [[0, 0], [3, 4]]


def test_codes_are_shifted_by_one_and_everything_unknown_is_code_zero() -> None:
    table = pa.table({"hour": [0, 23, 24, -1, None], "word": ["a", "b", "c", None, "a"]})
    features = {"discrete": {"hour": {"size": 24}, "word": {"vocabulary": "w"}}}
    batch = encoder(features).encode(table, PLACE)
    assert batch.discrete.tolist() == [[1, 1], [24, 2], [0, 0], [0, 0], [0, 1]]


def test_dictionary_columns_read_as_what_they_stand_for() -> None:
    table = pa.table({"word": pa.array(["b", "zz", "b"]).dictionary_encode()})
    batch = encoder({"discrete": {"word": {"vocabulary": "w"}}}).encode(table, PLACE)
    assert batch.discrete.tolist() == [[2], [0], [2]]


def test_lists_of_codes_are_that_many_codes() -> None:
    table = pa.table({"topics": [[1, 2], [3, 99]]})
    batch = encoder({"discrete": {"topics": {"size": 4, "length": 2}}}).encode(table, PLACE)
    assert batch.discrete.tolist() == [[2, 3], [4, 0]]


def test_sampling_weights_bring_back_the_population_only_where_asked() -> None:
    table = pa.table({"x": [1.0, 2.0], "like": [1, 0], "share": [1, 0]})
    tasks = {
        "like": DataTaskConfig(pos_downsampling_rate=0.5, neg_downsampling_rate=0.1),
        "share": DataTaskConfig(),
    }
    weighed = encoder({"continuous": ["x"]}, tasks, weigh_samples=True).encode(table, PLACE)
    assert weighed.weights is not None
    assert torch.allclose(weighed.weights, torch.tensor([[2.0, 1.0], [10.0, 1.0]]))
    plain = encoder({"continuous": ["x"]}, tasks).encode(table, PLACE)
    assert plain.weights is not None
    assert torch.equal(plain.weights, torch.ones(2, 2))


def test_a_task_without_a_label_here_weighs_nothing() -> None:
    table = pa.table({"x": [1.0], "share": [1]})
    batch = encoder({"continuous": ["x"]}, {"share": DataTaskConfig()}).encode(table, PLACE)
    assert batch.labels is not None
    assert batch.weights is not None
    assert batch.labels.tolist() == [[0, 1]]
    assert batch.weights.tolist() == [[0, 1]]


def test_users_are_equal_exactly_where_their_ids_are() -> None:
    table = pa.table({"x": [1.0] * 3, "like": [0] * 3, "share": [0] * 3, "user": ["ann", "bob", "ann"]})
    tasks = {"like": DataTaskConfig(), "share": DataTaskConfig()}
    batch = encoder({"continuous": ["x"], "user": "user"}, tasks).encode(table, PLACE)
    assert batch.user is not None
    assert batch.user[0] == batch.user[2] != batch.user[1]


@pytest.mark.parametrize(
    ("features", "columns", "message"),
    [
        ({"continuous": ["x"]}, {"x": ["a"]}, "rows.parquet: column 'x': holds string; numbers"),
        ({"binary": ["x"]}, {"x": [0, 2]}, "column 'x', row 101: found 2, expected 0 or 1"),
        ({"vectors": {"x": 3}}, {"x": [[1.0, 2.0]]}, "column 'x', row 100: holds a list of 2 values; 3 are"),
        ({"vectors": {"x": 3}}, {"x": [1.0]}, "column 'x': holds double; lists of 3 values"),
        ({"discrete": {"x": {"size": 3}}}, {"x": [1.5]}, "column 'x': holds double; integer codes 0 to 2"),
        (
            {"discrete": {"word": {"vocabulary": "w"}}},
            {"word": [1]},
            "column 'word': holds int64; it has a vocab",
        ),
        ({"continuous": ["y"]}, {"x": [1.0]}, "column 'y': is missing; .* Known: x"),
    ],
)
def test_a_column_that_cannot_serve_is_refused_with_its_place(
    features: dict[str, Any], columns: dict[str, list[Any]], message: str
) -> None:
    table, rows = pa.table(columns), encoder(features)

    def read() -> None:
        rows.check(table.schema, PLACE.file)
        rows.encode(table, PLACE)

    with pytest.raises(DataError, match=message):
        read()


@pytest.mark.parametrize(("label", "found"), [(2, "2"), (-1, "-1"), (0.5, "0.5")])
def test_a_label_other_than_zero_or_one_is_refused_with_file_column_and_row(label: Any, found: str) -> None:
    table = pa.table({"x": [1.0] * 3, "like": [0, 1, label], "share": [0] * 3})
    tasks = {"like": DataTaskConfig(), "share": DataTaskConfig()}
    message = f"rows.parquet: column 'like', row 102: found {found}, expected 0 or 1; a label must be"
    with pytest.raises(DataError, match=message):
        encoder({"continuous": ["x"]}, tasks).encode(table, PLACE)


def test_a_bad_label_deep_in_a_file_is_named_by_its_row_in_the_file(tmp_path: Path) -> None:
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


def test_a_glob_that_matches_nothing_is_refused_with_the_folder_it_was_looked_for_in(tmp_path: Path) -> None:
    values = feed_values(write_feed(tmp_path), tmp_path / "run")
    config = feed_config(
        tmp_path,
        tmp_path / "run",
        train_data={**values["train_data"], "source": {"inputs": "nowhere/*.parquet"}},
    )
    with pytest.raises(DataError, match=r"nowhere/\*.parquet: matches no file"):
        open_stream(config, load_assets(config.features), JobMode.TRAIN)


def test_a_file_that_is_not_parquet_and_one_cut_short_are_refused_by_name(tmp_path: Path) -> None:
    config = feed_config(write_feed(tmp_path), tmp_path / "run")
    assets = load_assets(config.features)
    file = tmp_path / "train" / "part-1.parquet"
    whole = file.read_bytes()
    for content in (b"not parquet at all", whole[: len(whole) // 2]):
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"part-1.parquet: not readable as Parquet"):
            open_stream(config, assets, JobMode.TRAIN)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({"value": ["a", "b", "a"]}), "row 2 repeats 'a'"),
        (pa.table({"value": ["a", None]}), "row 1 is null"),
        (pa.table({"value": [[1]]}), "must hold strings"),
    ],
)
def test_a_vocabulary_that_cannot_serve_is_refused(tmp_path: Path, table: pa.Table, message: str) -> None:
    path = tmp_path / "words.parquet"
    pq.write_table(table, path)
    features = FeaturesConfig.model_validate({"discrete": {"word": {"vocabulary": str(path)}}})
    with pytest.raises(DataError, match=message):
        load_assets(features)


def test_numbers_of_every_width_become_float32() -> None:
    kinds = [pa.int8(), pa.uint16(), pa.int64(), pa.float16(), pa.float32(), pa.float64(), pa.bool_()]
    for kind in kinds:
        values = [True, False] if pa.types.is_boolean(kind) else np.array([1, 0]).astype(kind.to_pandas_dtype())
        batch = encoder({"continuous": ["x"]}).encode(pa.table({"x": pa.array(values, kind)}), PLACE)
        assert batch.continuous.tolist() == [[1.0], [0.0]], kind


def test_a_validation_set_needs_the_labels_of_the_tasks_it_evaluates_and_no_others(tmp_path: Path) -> None:
    feed = write_feed(tmp_path)
    file = feed / "validation" / "part-0.parquet"
    pq.write_table(pq.read_table(file).drop_columns(["share"]), file)
    chosen = {"source": {"inputs": str(file)}, "evaluation_tasks": ["like"]}
    config = feed_config(feed, tmp_path / "run", validation_data={"validation": chosen})
    batch = next(iter(open_stream(config, load_assets(config.features), JobMode.EVALUATE, "validation")))
    assert batch.weights is not None
    assert batch.weights.sum(dim=0).tolist() == [64, 0]


def test_a_label_that_is_missing_weighs_nothing_for_its_task_alone() -> None:
    tasks = {"like": DataTaskConfig(neg_downsampling_rate=0.5), "share": DataTaskConfig()}
    table = pa.table({"age": [1.0, 2.0, 3.0], "like": [1, None, 0], "share": [None, 0, 1]})
    for weigh, expected in ((False, [1, 0, 1]), (True, [1, 0, 2])):
        batch = encoder({"continuous": ["age"]}, tasks, weigh_samples=weigh).encode(table, PLACE)
        assert batch.labels is not None
        assert batch.weights is not None
        assert batch.labels.tolist() == [[1, 0], [0, 0], [0, 1]]
        assert batch.weights[:, 0].tolist() == expected
        assert batch.weights[:, 1].tolist() == [0, 1, 1]


HOUR = 3_600_000
RECTIFY = RectifyLabelsConfig(window_hours=2.0, served_at="served", impressed_at="seen", engaged_at={"like": "liked"})


def rectified(table: dict[str, Any]) -> list[list[float]]:
    tasks = {"like": DataTaskConfig(), "share": DataTaskConfig()}
    batch = encoder({"continuous": ["age"]}, tasks, rectify=RECTIFY).encode(pa.table(table), PLACE)
    assert batch.labels is not None
    return batch.labels.tolist()  # type: ignore[no-any-return]


def test_a_positive_that_came_too_late_is_a_negative_of_its_task_alone() -> None:
    late = 2 * HOUR
    served = 1_680_000_000_000
    table = {
        "age": [0.0] * 5,
        "served": [served] * 5,
        "seen": [served, served + late - 1, served + late, served, served],
        "liked": [served + 1, served + late - 1, served + 1, served + late, None],
        "like": [1, 1, 1, 1, 0],
        "share": [1] * 5,
    }
    assert rectified(table) == [[1, 1], [1, 1], [0, 1], [0, 1], [0, 1]]


def test_a_positive_needs_its_times() -> None:
    table = {"age": [0.0], "served": [1], "seen": [1], "liked": pa.array([None], pa.int64()), "like": [1], "share": [0]}
    with pytest.raises(DataError, match="column 'liked', row 100: is null, but the label is 1; a positive"):
        rectified(table)
    with pytest.raises(DataError, match="column 'seen': holds double; a time is an integer of milliseconds"):
        rectified(table | {"seen": [1.0], "liked": [1]})


@given(st.lists(st.tuples(st.booleans(), *[st.integers(0, 10)] * 3), min_size=1, max_size=20))
def test_rectifying_follows_its_definition(rows: list[tuple[bool, int, int, int]]) -> None:
    label, served, seen, liked = zip(*rows, strict=True)
    table = {
        "age": [0.0] * len(rows),
        "served": [time * HOUR for time in served],
        "seen": [time * HOUR for time in seen],
        "liked": [time * HOUR for time in liked],
        "like": [int(each) for each in label],
        "share": [0] * len(rows),
    }
    expected = [float(each and b - a < 2 and c - a < 2) for each, a, b, c in rows]
    assert [row[0] for row in rectified(table)] == expected


def test_a_feature_may_be_one_value_of_a_list() -> None:
    topics = pa.array([[5, 6], [7, 8], None], pa.list_(pa.int64(), 2))
    numbers = pa.array([[0.5, 1.5], [2.5, 3.5], [4.5, 5.5]])
    features = {
        "continuous": [{"name": "second", "of": {"column": "numbers", "index": 1}}],
        "discrete": {"first": {"size": 10, "of": {"column": "topics", "index": 0}}},
    }
    reads = encoder(features)
    assert reads.columns == ["numbers", "topics"]
    batch = reads.encode(pa.table({"topics": topics, "numbers": numbers}), PLACE)
    assert batch.continuous.tolist() == [[1.5], [3.5], [5.5]]
    assert batch.discrete.tolist() == [[6], [8], [0]]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([[1, 2]], pa.list_(pa.int64(), 2)), "column 'topics': holds lists of 2 values; there is no value 3"),
        (pa.array([[1] * 4, [1]]), "column 'topics', row 101: holds a list of 1 values; there is no value 3"),
        (pa.array([1]), "column 'topics': holds int64; lists are expected, of which value 3 is read"),
    ],
)
def test_a_list_without_the_value_is_refused(column: pa.Array, message: str) -> None:
    reads = encoder({"discrete": {"topic": {"size": 10, "of": {"column": "topics", "index": 3}}}})
    with pytest.raises(DataError, match=message):
        reads.encode(pa.table({"topics": column}), PLACE)
