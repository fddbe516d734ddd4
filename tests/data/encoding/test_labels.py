"""Labels, their weights, rectification, users, and lists."""

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from data.encoders import LOCATION, TASKS, make_encoder
from hypothesis import given
from hypothesis import strategies as st
from support import LANGUAGES, feed_config, feed_table, feed_values, write_feed

from recap.config.data import DataTaskConfig, RectifyLabelsConfig
from recap.config.file.load import config_of
from recap.config.recap import JobMode
from recap.data.batch import Batch
from recap.data.encoding.assets import load_assets
from recap.data.encoding.encoder import RowEncoder
from recap.data.open import open_stream
from recap.distributed import ONE_RANK
from recap.errors import ConfigError, DataError
from recap.evaluation.observers.metrics import Metrics
from recap.model.directory import new_ranker
from recap.model.objective.objective import Objective
from recap.model.scorer import Scorer


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


TIMES = {"served_at": "t0", "impressed_at": "t1", "engaged_at": {"like": "age"}}


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        (
            "train_data",
            {"tasks": {"like": {"column": "in_network"}, "share": {}}},
            "features.binary.0: 'in_network' is the label of 'like', and a label cannot be a feature; remove it",
        ),
        (
            "train_data",
            {"rectify_labels": TIMES},
            "features.continuous.0: 'age' is the time of 'like' (rectify_labels.engaged_at), which gives the label",
        ),
        (
            "features",
            {"ids": ["post_id", "like"]},
            "features.ids.1: 'like' is the column that holds the predictions of this task; remove it, or rename",
        ),
        ("features", {"user": "score"}, "features.user: 'score' is the column that holds scores; remove it"),
    ],
)
def test_a_label_is_no_feature_and_has_another_name_than_its_prediction(
    section: str, changes: dict[str, Any], message: str, feed: Path
) -> None:
    values = feed_values(feed, feed / "run")
    values[section] |= changes
    with pytest.raises(ConfigError, match=re.escape(message)):
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


DAY = 86_400_000
FIVE = {"user": ["ann", "ann", "ann", "bob", "bob"], "request": [1, 1, 2, 3, 3], "t": [0, DAY - 1, DAY, 0, -1]}


def lists(metrics: dict[str, Any], features: dict[str, Any], mode: JobMode = JobMode.EVALUATE, **columns: Any) -> Any:
    """The lists of five rows, as numbers of their lists in the order of appearance; None if they are those of users."""
    folder = Path("feed")
    values = feed_values(folder, folder / "run") | {"metrics": metrics}
    values["features"] = {"continuous": ["x"], **features}
    values["model"]["embeddings"] = {}
    config = config_of(values)
    table = pa.table({"x": [1.0] * 5, "like": [0] * 5, "share": [0] * 5, **FIVE, **columns})
    found = RowEncoder.for_job(config, {}, mode, config.validation_data["validation"]).encode(table, LOCATION).lists
    order = list(dict.fromkeys(found.tolist())) if found is not None else []
    return None if found is None else [order.index(value) for value in found.tolist()]


def test_a_list_holds_the_rows_of_a_user_a_request_or_a_user_and_day() -> None:
    user, request, time = {"user": "user"}, {"request": "request"}, {"timestamp": "t"}
    assert lists({}, user) is lists({"lists": "user"}, user | request) is None
    assert lists({}, request) == lists({"lists": "request"}, user | request) == [0, 0, 1, 2, 2]
    assert lists({"lists": "user_day"}, user | time) == [0, 0, 1, 2, 3]
    days = pa.array(FIVE["t"], pa.timestamp("ms"))
    assert lists({"lists": "user_day"}, user | time, t=days) == [0, 0, 1, 2, 3]
    assert lists({}, user | request, JobMode.TRAIN) is None


@pytest.mark.parametrize(
    ("kind", "features", "message"),
    [
        ("request", {"user": "user"}, "metrics.lists: request needs features.request, the column of the request"),
        ("user", {"request": "request"}, "metrics.lists: user needs features.user, the column of the user"),
        ("user_day", {"user": "user"}, "metrics.lists: user_day needs features.timestamp, the column of the timestamp"),
    ],
)
def test_lists_need_their_columns(kind: str, features: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        lists({"lists": kind}, features)


def test_every_row_needs_a_list() -> None:
    with pytest.raises(DataError, match="column 'request', row 101: is null; every row needs a request"):
        lists({}, {"request": "request"}, request=[1, None, 1, 1, 1])
    with pytest.raises(DataError, match="column 't', row 102: is null; every row needs a time"):
        lists({"lists": "user_day"}, {"user": "user", "timestamp": "t"}, t=[1, 1, None, 1, 1])


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


def weighted(**labels: Any) -> Any:
    tasks = labels.pop("tasks", TASKS)
    return make_encoder({}, tasks, **labels)


ROWS = pa.table({"like": [1, 0, None], "share": [0, 1, 0], "w": [2.0, 0.0, 5.0], "v": [1, 3, 4]})


def test_the_weight_of_a_row_multiplies_that_of_sampling_in_every_task() -> None:
    tasks = {"like": DataTaskConfig(neg_downsampling_rate=0.5), "share": DataTaskConfig(neg_downsampling_rate=0.5)}
    batch = weighted(tasks=tasks, weight="w", weigh_samples=True).encode(ROWS, LOCATION)
    assert batch.weights.tolist() == [[2, 4], [0, 0], [0, 10]]


def test_a_task_may_have_a_weight_of_its_own() -> None:
    tasks = {"like": DataTaskConfig(), "share": DataTaskConfig(weight="v")}
    encoder = weighted(tasks=tasks, weight="w")
    assert encoder.encode(ROWS, LOCATION).weights.tolist() == [[2, 1], [0, 3], [0, 4]]
    assert encoder.columns == ["like", "share", "w", "v"]


@pytest.mark.parametrize(
    ("value", "text"), [(None, "is null"), (-1.0, "found -1"), (float("inf"), "found inf"), (float("nan"), "is null")]
)
def test_a_weight_that_is_no_number_of_at_least_0_is_refused(value: float | None, text: str) -> None:
    rows = ROWS.set_column(2, "w", pa.array([1.0, value, 1.0]))
    message = rf"rows.parquet: column 'w', row 101: {text}; a weight is a finite number of at least 0"
    with pytest.raises(DataError, match=message):
        weighted(weight="w").encode(rows, LOCATION)


def test_a_weight_that_is_the_label_of_its_task_is_refused(feed: Path) -> None:
    for tasks, weight, path in (
        ({"like": {}, "share": {}}, "share", "train_data.weight"),
        ({"like": {"weight": "like"}, "share": {}}, None, "train_data.tasks.like.weight"),
    ):
        data = {**feed_values(feed, feed)["train_data"], "tasks": tasks, "weight": weight}
        with pytest.raises(ConfigError, match=rf"{path}: is the label of '(like|share)', so its negatives"):
            feed_config(feed, feed / "run", train_data=data)


def test_rows_of_weight_2_count_as_two_equal_rows_in_loss_and_metrics(tmp_path: Path) -> None:
    table = feed_table(300)
    weights = [1 + row % 2 for row in range(len(table))]
    repeated = [row for row, weight in enumerate(weights) for _ in range(weight)]
    (tmp_path / "train").mkdir()
    pq.write_table(table.append_column("weight", pa.array(weights)), tmp_path / "train" / "weighted.parquet")
    pq.write_table(table.take(repeated), tmp_path / "train" / "repeated.parquet")
    pq.write_table(pa.table({"value": list(LANGUAGES)}), tmp_path / "languages.parquet")
    metrics, losses = [], []
    for name, weight in (("weighted", "weight"), ("repeated", None)):
        values = feed_values(tmp_path, tmp_path / "run")
        values["train_data"]["weight"] = weight
        values["validation_data"]["validation"]["source"]["inputs"] = str(tmp_path / "train" / f"{name}.parquet")
        values["which_metrics"] = ["log_loss", "auc", "ctr", "pctr", "rce"]
        config = config_of(values)
        assets = load_assets(config.features)
        torch.manual_seed(0)
        ranker, objective, observer = (
            new_ranker(config, assets).eval(),
            Objective(config),
            Metrics(config, "validation", ONE_RANK),
        )
        scorer, total = Scorer.of(config, ranker), torch.zeros(2, dtype=torch.float64)
        for batch in open_stream(config, assets, JobMode.EVALUATE, "validation"):
            with torch.no_grad():
                scores = scorer(batch)
            observer.update(batch, scores)
            total += objective.row_losses(scores.logits, batch).double().sum(dim=0)
        metrics.append(observer.result())
        losses.append(total)
    torch.testing.assert_close(*losses)
    for task in ("like", "share"):
        for metric in ("log_loss", "auc", "ctr", "pctr", "rce"):
            assert metrics[0][task][metric] == pytest.approx(metrics[1][task][metric], rel=1e-5), (task, metric)


def test_a_rating_is_the_label_of_tasks_with_thresholds() -> None:
    tasks = {"like": DataTaskConfig(column="v", at_least=3), "share": DataTaskConfig(column="v", at_least=3.5)}
    rows = ROWS.set_column(3, "v", pa.array([1, 3, None]))
    batch = make_encoder({}, tasks).encode(rows, LOCATION)
    assert batch.labels.tolist() == [[0, 0], [1, 0], [0, 0]]
    assert batch.weights.tolist() == [[1, 1], [1, 1], [0, 0]]
    infinite = ROWS.set_column(3, "v", pa.array([1.0, float("inf"), 2.0]))
    with pytest.raises(DataError, match="column 'v', row 101: is infinite; a label is a finite number or null"):
        make_encoder({}, tasks).encode(infinite, LOCATION)


def test_a_regression_has_no_threshold(feed: Path) -> None:
    values = feed_values(feed, feed)
    values["train_data"]["tasks"] = {"like": {"at_least": 1}, "share": {}}
    values["model"]["tasks"]["like"] = {"tower": {"kind": "mlp"}, "objective": {"kind": "regression"}}
    with pytest.raises(ConfigError, match="'like' is a regression task, whose label is a number; remove at_least"):
        config_of(values)
