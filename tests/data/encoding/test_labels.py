"""Labels, their weights, rectification, and users."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from data.encoders import LOCATION, TASKS, make_encoder
from hypothesis import given
from hypothesis import strategies as st
from support import feed_config, feed_values, write_feed

from recap.config.data import DataTaskConfig, RectifyLabelsConfig
from recap.config.file.load import config_of
from recap.config.recap import JobMode
from recap.data.batch import Batch
from recap.data.encoding.assets import load_assets
from recap.data.open import open_stream
from recap.errors import ConfigError, DataError


def first(feed: Path, tasks: dict[str, Any], mode: JobMode = JobMode.TRAIN) -> Batch:
    config = feed_config(feed, feed / "run", train_data={**feed_values(feed, feed)["train_data"], "tasks": tasks})
    split = None if mode is JobMode.TRAIN else "validation"
    return next(iter(open_stream(config, load_assets(config.features), mode, split)))


@pytest.mark.parametrize("mode", [JobMode.TRAIN, JobMode.EVALUATE])
def test_a_label_may_have_a_column_of_another_name(mode: JobMode, feed: Path) -> None:
    plain, crossed = (
        first(feed, tasks, mode).labels
        for tasks in ({"like": {}, "share": {}}, {"like": {"column": "share"}, "share": {"column": "like"}})
    )
    assert plain is not None
    assert crossed is not None
    assert torch.equal(plain, crossed.flip(1))


def test_a_missing_label_column_is_refused_by_name(feed: Path) -> None:
    with pytest.raises(DataError, match=r"column 'liked': is missing.*Did you mean 'like'"):
        first(feed, {"like": {"column": "liked"}, "share": {}})
    with pytest.raises(DataError, match=r"column 'post_id', row .*a label must be 0 or 1"):
        first(feed, {"like": {"column": "post_id"}, "share": {}})


def test_a_label_cannot_be_a_feature(feed: Path) -> None:
    values = feed_values(feed, feed / "run")
    values["train_data"]["tasks"]["like"] = {"column": "in_network"}
    with pytest.raises(ConfigError, match=r"features\.binary\.0: 'in_network' is the label of 'like', and a label"):
        config_of(values)


def test_weights_undo_down_sampling_only_if_configured() -> None:
    table = pa.table({"x": [1.0, 2.0], "like": [1, 0], "share": [1, 0]})
    tasks = {
        "like": DataTaskConfig(pos_downsampling_rate=0.5, neg_downsampling_rate=0.1),
        "share": DataTaskConfig(),
    }
    weighed = make_encoder({"continuous": ["x"]}, tasks, weigh_samples=True).encode(table, LOCATION)
    assert weighed.weights is not None
    assert torch.allclose(weighed.weights, torch.tensor([[2.0, 1.0], [10.0, 1.0]]))
    plain = make_encoder({"continuous": ["x"]}, tasks).encode(table, LOCATION)
    assert plain.weights is not None
    assert torch.equal(plain.weights, torch.ones(2, 2))


def test_a_task_without_labels_has_weight_zero() -> None:
    table = pa.table({"x": [1.0], "share": [1]})
    batch = make_encoder({"continuous": ["x"]}, {"share": DataTaskConfig()}).encode(table, LOCATION)
    assert batch.labels is not None
    assert batch.weights is not None
    assert batch.labels.tolist() == [[0, 1]]
    assert batch.weights.tolist() == [[0, 1]]


def test_users_are_equal_if_and_only_if_their_ids_are() -> None:
    table = pa.table({"x": [1.0] * 3, "like": [0] * 3, "share": [0] * 3, "user": ["ann", "bob", "ann"]})
    batch = make_encoder({"continuous": ["x"], "user": "user"}, TASKS).encode(table, LOCATION)
    assert batch.user is not None
    assert batch.user[0] == batch.user[2] != batch.user[1]


@pytest.mark.parametrize(("label", "shown"), [(2, "2"), (-1, "-1"), (0.5, "0.5")])
def test_a_label_other_than_0_or_1_is_refused_with_file_column_and_row(label: Any, shown: str) -> None:
    table = pa.table({"x": [1.0] * 3, "like": [0, 1, label], "share": [0] * 3})
    message = f"rows.parquet: column 'like', row 102: found {shown}, expected 0 or 1; a label must be"
    with pytest.raises(DataError, match=message):
        make_encoder({"continuous": ["x"]}, TASKS).encode(table, LOCATION)


def test_a_null_label_has_weight_zero_for_its_task_only() -> None:
    tasks = {"like": DataTaskConfig(neg_downsampling_rate=0.5), "share": DataTaskConfig()}
    table = pa.table({"age": [1.0, 2.0, 3.0], "like": [1, None, 0], "share": [None, 0, 1]})
    for weigh, expected in ((False, [1, 0, 1]), (True, [1, 0, 2])):
        batch = make_encoder({"continuous": ["age"]}, tasks, weigh_samples=weigh).encode(table, LOCATION)
        assert batch.labels is not None
        assert batch.weights is not None
        assert batch.labels.tolist() == [[1, 0], [0, 0], [0, 1]]
        assert batch.weights[:, 0].tolist() == expected
        assert batch.weights[:, 1].tolist() == [0, 1, 1]


HOUR = 3_600_000
RECTIFY = RectifyLabelsConfig(window_hours=2.0, served_at="served", impressed_at="seen", engaged_at={"like": "liked"})


def rectified(table: dict[str, Any]) -> list[list[float]]:
    batch = make_encoder({"continuous": ["age"]}, TASKS, rectify=RECTIFY).encode(pa.table(table), LOCATION)
    assert batch.labels is not None
    return batch.labels.tolist()  # type: ignore[no-any-return]


def test_a_late_positive_becomes_a_negative_of_its_task_only() -> None:
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


def test_a_positive_without_times_is_refused() -> None:
    table = {"age": [0.0], "served": [1], "seen": [1], "liked": pa.array([None], pa.int64()), "like": [1], "share": [0]}
    with pytest.raises(DataError, match="column 'liked', row 100: is null, but the label is 1; positives"):
        rectified(table)
    with pytest.raises(
        DataError, match=r"column 'seen': holds time64.*, expected timestamps, or integers: times in milliseconds"
    ):
        rectified(table | {"seen": pa.array([1], pa.time64("us")), "liked": [1]})


@given(st.lists(st.tuples(st.booleans(), *[st.integers(0, 10)] * 3), min_size=1, max_size=20))
def test_rectification_follows_its_definition(rows: list[tuple[bool, int, int, int]]) -> None:
    label, served, seen, liked = zip(*rows, strict=True)
    table = {
        "age": [0.0] * len(rows),
        "served": [time * HOUR for time in served],
        "seen": [time * HOUR for time in seen],
        "liked": [time * HOUR for time in liked],
        "like": [int(positive) for positive in label],
        "share": [0] * len(rows),
    }
    expected = [float(positive and b - a < 2 and c - a < 2) for positive, a, b, c in rows]
    assert [row[0] for row in rectified(table)] == expected


def test_a_validation_set_needs_only_the_labels_of_its_evaluation_tasks(tmp_path: Path) -> None:
    feed = write_feed(tmp_path)
    file = feed / "validation" / "part-0.parquet"
    pq.write_table(pq.read_table(file).drop_columns(["share"]), file)
    chosen = {"source": {"inputs": str(file)}, "evaluation_tasks": ["like"]}
    config = feed_config(feed, tmp_path / "run", validation_data={"validation": chosen})
    batch = next(iter(open_stream(config, load_assets(config.features), JobMode.EVALUATE, "validation")))
    assert batch.weights is not None
    assert batch.weights.sum(dim=0).tolist() == [64, 0]
