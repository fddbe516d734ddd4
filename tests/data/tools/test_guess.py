from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow.csv import write_csv
from support import Recorder

from recap.config.file.load import load_config, resolve
from recap.config.file.starter import Columns, Sizes
from recap.data.tools.check import check_data
from recap.data.tools.guess.columns import guess_columns
from recap.data.tools.guess.options import StatedColumns, StatedLabel
from recap.data.tools.guess.starter import start_from_data
from recap.errors import DataError, InputError
from recap.training.trainer import train

ROWS = 400


def table() -> pa.Table:
    random = np.random.default_rng(0)
    floats = random.normal(size=ROWS) * 1000
    return pa.table(
        {
            "user_id": random.integers(0, 50, ROWS) * 1_000_003,
            "post_id": random.integers(0, 1 << 60, ROWS),
            "topic_id": random.integers(0, 30, ROWS),
            "served_at_ms": 1_680_000_000_000 + np.arange(ROWS),
            "is_clicked_at_ms": 1_680_000_000_000 + np.arange(ROWS),
            "day": pa.array([None] * ROWS, pa.int64()),
            "date": 20230405 + random.integers(0, 20, ROWS),
            "age_hours": pa.array(floats, mask=random.random(ROWS) < 0.25),
            "view_count": random.integers(0, 40, ROWS),
            "is_in_network": random.random(ROWS) < 0.5,
            "hour": random.integers(0, 24, ROWS).astype(np.int8),
            "language": pa.array(random.choice(["en", "ja", "pt"], ROWS)).dictionary_encode(),
            "trace_id": [f"{number:x}" for number in range(ROWS)],
            "embedding": pa.FixedSizeListArray.from_arrays(random.normal(size=ROWS * 4), 4),
            "topics": pa.FixedSizeListArray.from_arrays(random.integers(0, 9, ROWS * 3), 3),
            "history": pa.array([[1] * (row % 3) for row in range(ROWS)]),
            "place": pa.array([{"x": 1}] * ROWS),
            "version": np.full(ROWS, 7),
            "play_time_ms": random.integers(0, 100_000, ROWS),
            "is_clicked": (random.random(ROWS) < 0.25).astype(np.int8),
            "is_reported": random.random(ROWS) < 0.02,
            "not_a_number": np.full(ROWS, np.nan),
            "like_rate": random.random(ROWS),
            "default": floats,
        }
    )


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "rows.parquet"
    pq.write_table(table(), path, row_group_size=300)
    return path


@pytest.fixture(scope="module")
def columns(file: Path) -> Columns:
    found = guess_columns([str(file)])
    assert found.rows == ROWS
    return found.columns


def names(guesses: Any) -> list[str]:
    return [guess.name for guess in guesses]


def test_types_values_and_names_decide_the_roles(columns: Columns) -> None:
    assert names(columns.continuous) == ["age_hours", "view_count", "like_rate"]
    assert names(columns.binary) == ["is_in_network"]
    assert {guess.name: guess.value for guess in columns.discrete} == {
        "user_id": {"hash": {"buckets": 100}},
        "topic_id": {"hash": {"buckets": 100}},
        "hour": {"size": 24},
        "language": {"hash": {"buckets": 100}},
        "topics": {"size": 9, "length": 3},
    }
    assert {guess.name: guess.value for guess in columns.histories} == {
        "history": {"ids": {"column": "history", "hash": {"buckets": 100}}, "max_length": 2}
    }
    assert {guess.name: guess.value for guess in columns.vectors} == {"embedding": 4}
    assert names(columns.ids) == ["post_id", "trace_id"]
    assert names(columns.user) == ["user_id"]
    assert names(columns.timestamp) == ["served_at_ms"]


def test_labels_weigh_one_over_their_rate_and_complaints_negatively(columns: Columns) -> None:
    weights = {label.name: label.weight for label in columns.labels}
    rate = np.mean(table().slice(0, 300).column("is_clicked").to_numpy())  # of the sampled row group
    assert weights["is_clicked"] == pytest.approx(1 / rate, rel=0.05)
    assert weights["is_reported"] < -10


def test_every_guess_has_a_reason(columns: Columns) -> None:
    assert all(guess.comment for guesses in vars(columns).values() for guess in guesses)
    assert {guess.name: guess.comment for guess in columns.left_out} == {
        "is_clicked_at_ms": "another time; a model can learn from an age or hour derived from it",
        "day": "null in every sampled row",
        "date": "a date in digits; a model can learn from an age or weekday derived from it",
        "place": "type struct<x: int64> is not supported",
        "version": "always 7",
        "play_time_ms": "named like an outcome, which is known only after the impression",
        "not_a_number": "never a finite number",
        "default": "its name has a special meaning in a configuration; rename it",
    }
    assert columns.continuous[0].comment.endswith("% null")


def started(folder: Path, inputs: Path, validation: str | None = None, **stated: Any) -> Path:
    """The configuration that `config new` writes into a folder, and all that goes with it."""
    output = folder / "ranker.yaml"
    text = start_from_data(
        [str(inputs)],
        None,
        stated=StatedColumns(**stated),
        validation=validation,
        output=output,
        overwrite=False,
        say=lambda line: None,
    )
    output.write_text(text)
    return output


def trained(written: Path, steps: int = 2) -> None:
    """Check the configuration against its data, and train a few steps."""
    check_data(resolve(written))
    overrides = [f"training.save_dir={written.parent}/run", f"training.num_train_steps={steps}"]
    assert train(load_config(written, overrides), Recorder()).trained


def test_the_starter_config_is_valid_fits_the_data_and_trains(file: Path, tmp_path: Path) -> None:
    written = started(tmp_path, file, "0.2")
    trained(written)
    config = load_config(written)
    assert config.model.tasks["is_clicked"].initial_rate == "auto"
    assert [column.name for column in config.features.ids] == ["post_id", "trace_id"]
    words = pq.read_table(tmp_path / "vocabularies" / "language.parquet")
    assert sorted(words.column("value").to_pylist()) == ["en", "ja", "pt"]
    watch = config.training.watch
    assert watch is not None
    assert watch.stop_after is not None


def test_the_last_evaluation_is_at_the_last_step_and_no_other_is_close(file: Path, tmp_path: Path) -> None:
    for rows in (130, 5_000, 160_000, 1_234_567):
        sizes = Sizes.of(rows)
        evaluated = [*range(sizes.interval, sizes.steps, sizes.interval), sizes.steps]
        assert len(evaluated) <= sizes.evaluations
        assert sizes.steps - sizes.steps // sizes.interval * sizes.interval in {0, *range(sizes.interval)}


def test_data_without_labels_or_rows_or_with_different_columns_is_refused(file: Path, tmp_path: Path) -> None:
    def write(name: str, rows: pa.Table) -> str:
        pq.write_table(rows, tmp_path / name)
        return str(tmp_path / name)

    no_label = write("no_label.parquet", table().drop_columns(["is_clicked", "is_reported"]))
    with pytest.raises(DataError, match=r"no column looks like a label: .* --label COLUMN, .* Found: user_id, post_id"):
        guess_columns([no_label])
    with pytest.raises(DataError, match="holds no rows; columns are guessed from their values"):
        guess_columns([write("empty.parquet", table().slice(0, 0))])
    with pytest.raises(DataError, match=r"no_label.parquet: lacks the columns is_clicked, is_reported of .*rows"):
        guess_columns([str(file), no_label])
    other = table().set_column(0, "user_id", pa.array([[1]] * ROWS))
    with pytest.raises(DataError, match="hold columns of different types"):
        guess_columns([str(file), write("types.parquet", other)])
    with pytest.raises(DataError, match="matches no file"):
        guess_columns([str(tmp_path / "none*.parquet")])


def guessed(folder: Path, *tables: dict[str, Any], row_group_size: int = 1000) -> Columns:
    """The guesses for files of these tables, each with a label and a feature added."""
    rows = len(next(iter(tables[0].values())))
    sure = {"is_clicked": [0, 1] * (rows // 2), "x": list(np.linspace(0, 1, rows))}
    for number, columns in enumerate(tables):
        pq.write_table(pa.table(sure | columns), folder / f"f{number}.parquet", row_group_size=row_group_size)
    return guess_columns([str(folder / "*.parquet")]).columns


@pytest.mark.parametrize(
    ("name", "values", "comment"),
    [
        ("is_liked", [-1, 1, 1, -1], "named like an engagement, but a label is 0, 1 or null"),
        ("is_liked", [0.0, 1.0, 1.0, float("inf")], "named like an engagement, but a label is 0, 1 or null"),
        ("user_id", [5, 6, None, 7], "named like a user, but null in some rows; every row needs its user"),
        (
            "user_id",
            [5.5, 6.0, 7.0, 8.0],
            "named like a user, but neither integers nor strings; every row needs its user",
        ),
        ("user_id", ["a", None, "b", "c"], "named like a user, but null in some rows; every row needs its user"),
        ("vector", [[1.0, 2.0], [1.0, float("nan")]] * 2, "lists of floats, some of them not finite"),
        ("vector", [[1.0, 1e300], [1.0, 2.0]] * 2, "lists of floats, some of them not finite"),
        ("vector", [[1.0, 2.0], [1.0]] * 2, "lists of floats of varying length"),
        ("item_id", [2.0**60, None, 2.0**60, 1.0], "ids as floats, which cannot hold such large ones exactly"),
        ("Unnamed: 0", [5, 9, 2, 7], "the index of a table, not a property of the row"),
        ("__index_level_0__", [5, 9, 2, 7], "the index of a table, not a property of the row"),
        ("row", list(range(100, 140)), "counts the rows, so it is an index"),
        ("rating", [0, 5] * 30, "alone tells is_clicked (AUC 1.000), so it is most likely known only afterwards"),
        ("${HOME}", [1.5, 2.5, 3.5, 4.5], "its name has a special meaning in a configuration; rename it"),
    ],
)
def test_columns_that_a_run_would_refuse_are_left_out(
    name: str, values: list[Any], comment: str, tmp_path: Path
) -> None:
    (left_out,) = guessed(tmp_path, {name: values}).left_out
    assert (left_out.name, left_out.comment[: len(comment)]) == (name, comment)


def test_a_label_may_be_missing_in_some_rows(tmp_path: Path) -> None:
    _, liked = guessed(tmp_path, {"is_liked": [0, 1, 1, None]}).labels
    assert liked.comment == "0 or 1, named like an engagement; 66.67% are 1, 25% missing"


def test_whole_numbers_as_floats_count_as_integers(tmp_path: Path) -> None:
    columns = guessed(tmp_path, {"flag": [0.0, 1.0, float("nan"), 1.0], "hour": [3.0, None, 23.0, 3.0]})
    assert {guess.name: guess.value for guess in columns.discrete} == {"flag": {"size": 2}, "hour": {"size": 24}}


def test_rows_are_sampled_from_all_over_the_files(tmp_path: Path) -> None:
    values = [0, 1] * 50 + list(range(300))
    columns = guessed(tmp_path, {"kind": values, "late": [0] * 399 + [1]}, row_group_size=100)
    assert names(columns.continuous) == ["x", "kind"]
    assert names(columns.binary) == ["late"]


def test_files_may_differ_in_dictionaries_and_booleans(tmp_path: Path) -> None:
    plain = {"flag": [True, False] * 2, "word": ["a", "b"] * 2, "gone": [1.5, 2.0, 3.0, 4.0]}
    other = {"flag": [1, 0] * 2, "word": pa.array(["a", "b"] * 2).dictionary_encode(), "gone": pa.nulls(4)}
    columns = guessed(tmp_path, plain, other)
    assert names(columns.binary) == ["flag"]
    assert names(columns.discrete) == ["word"]
    assert names(columns.continuous) == ["x", "gone"]  # null in the second file


def test_an_empty_row_group_is_skipped(tmp_path: Path) -> None:
    rows = table()
    with pq.ParquetWriter(tmp_path / "rows.parquet", rows.schema) as writer:
        writer.write_table(rows.slice(0, 0))
        writer.write_table(rows)
    assert names(guess_columns([str(tmp_path / "rows.parquet")]).columns.labels) == ["is_clicked", "is_reported"]


def test_data_without_a_feature_or_with_duplicate_columns_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"is_clicked": [0, 1], "word": ["a", "a"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"no column looks like a feature. word: always 'a'."):
        guess_columns([str(tmp_path / "a.parquet")])
    twice = pa.table([[0, 1], [0.5, 1.5], [0.5, 1.5]], names=["is_clicked", "x", "x"])
    pq.write_table(twice, tmp_path / "b.parquet")
    with pytest.raises(DataError, match="columns appear twice: x; rename them"):
        guess_columns([str(tmp_path / "b.parquet")])
    with pytest.raises(DataError, match=r"is a folder; name its files, such as .*\*.parquet"):
        guess_columns([str(tmp_path)])


def test_a_file_whose_name_looks_like_a_glob_matches_itself(tmp_path: Path) -> None:
    pq.write_table(table(), tmp_path / "x[1].parquet")
    assert guess_columns([str(tmp_path / "x[1].parquet")]).rows == ROWS


def csv(path: Path, columns: dict[str, Any]) -> Path:
    write_csv(pa.table(columns), path)
    return path


DAYS = [f"2026-01-{1 + row // 10:02d} {row % 10:02d}:30:00" for row in range(100)]


def logs(**more: Any) -> dict[str, Any]:
    """100 rows of logs over ten days; ids have leading zeros."""
    random = np.random.default_rng(1)
    return {
        "user_id": [f"{row % 7:03d}" for row in range(100)],
        "item_id": [f"{row % 11:03d}" for row in range(100)],
        "served_at": DAYS,
        "price": random.normal(size=100),
        "is_clicked": random.integers(0, 2, 100),
        **more,
    }


@pytest.mark.parametrize(("validation", "days", "rows"), [("last-day", 1, 10), ("0.2", 2, 20), ("0.27", 3, 27)])
def test_a_table_is_split_by_time_into_new_files(validation: str, days: int, rows: int, tmp_path: Path) -> None:
    written = started(tmp_path, csv(tmp_path / "logs.csv", logs()), validation)
    train_rows, held_out = (pq.read_table(tmp_path / "data" / f"{part}.parquet") for part in ("train", "validation"))
    assert (train_rows.num_rows, held_out.num_rows) == (100 - rows, rows)
    assert max(train_rows.column("served_at").to_pylist()) < min(held_out.column("served_at").to_pylist())
    assert len({str(time)[:10] for time in held_out.column("served_at").to_pylist()}) == days
    assert set(train_rows.column("item_id").to_pylist()) == {f"{row:03d}" for row in range(11)}  # as written
    trained(written)
    with pytest.raises(InputError, match=r"data/train.parquet: already exists; add --overwrite"):
        started(tmp_path, tmp_path / "logs.csv", validation)


@pytest.mark.parametrize(
    ("times", "boundary"),
    [
        (lambda row: 1_750_000_000 + 3600 * row, 1_750_291_200),
        (lambda row: 1_750_000_000_000 + 3_600_000 * row, 1_750_291_200_000),
        (lambda row: 20260101 + row // 10, 20260110),
    ],
)
def test_the_last_day_of_numbers_depends_on_their_unit(times: Any, boundary: int, tmp_path: Path) -> None:
    pq.write_table(pa.table(logs(served_at=[times(row) for row in range(100)])), tmp_path / "logs.parquet")
    split = guess_columns(
        [str(tmp_path / "logs.parquet")], stated=StatedColumns(time="served_at"), validation="last-day"
    ).split
    assert split is not None
    assert boundary <= split.boundary < boundary + 3_600_000
    assert 0 < split.validation_rows <= 24


def test_without_a_time_a_share_is_random_and_a_last_day_is_refused(tmp_path: Path) -> None:
    rows = logs()
    del rows["served_at"]
    file = csv(tmp_path / "logs.csv", rows)
    with pytest.raises(InputError, match="no column looks like a time; name it with --time"):
        started(tmp_path, file, "last-day")
    started(tmp_path, file, "0.3")
    parts = [pq.read_table(tmp_path / "data" / f"{part}.parquet").num_rows for part in ("train", "validation")]
    assert sum(parts) == 100
    assert 15 < parts[1] < 45


def test_validation_files_need_the_columns_of_the_training_data(tmp_path: Path) -> None:
    file = csv(tmp_path / "logs.csv", logs())
    later = csv(tmp_path / "later.csv", logs())
    assert list(load_config(started(tmp_path, file, str(later))).validation_data) == ["validation"]
    with pytest.raises(DataError, match=r"other.csv: lacks the columns .*user_id.* of the training data"):
        started(tmp_path / "b", file, str(csv(tmp_path / "other.csv", {"x": [1]})))
    with pytest.raises(InputError, match=r"--validation 1.5: expected a share of the rows between 0 and 1"):
        started(tmp_path, file, "1.5")


def test_an_input_is_never_replaced_by_a_part_of_it(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table(logs()), tmp_path / "data" / "train.parquet")
    with pytest.raises(InputError, match="is an input and would be replaced"):
        started(tmp_path, tmp_path / "data" / "train.parquet", "last-day")


def test_users_name_labels_of_every_kind(tmp_path: Path) -> None:
    rating = np.random.default_rng(2).integers(0, 6, 100)
    file = csv(tmp_path / "logs.csv", logs(rating=rating, y=rating % 2, seconds=rating * 7.5))
    texts = ["rating:at_least=4", "rating:at_least=2.5", "y", "seconds:regression"]
    written = started(tmp_path, file, labels=[StatedLabel.parse(text) for text in texts])
    trained(written)
    config = load_config(written)
    assert config.tasks == ["rating_at_least_4", "rating_at_least_2.5", "y", "seconds", "is_clicked"]
    assert config.train_data.tasks["rating_at_least_4"].column == "rating"
    assert config.regressions == ["seconds"]
    starts = [(task.initial_rate, task.affine_map and task.affine_map.bias) for task in config.model.tasks.values()]
    assert set(starts) == {("auto", None), ("auto", 0.0)}  # the data alone says where a tower starts
    assert "rating" not in config.features.inputs


@pytest.mark.parametrize(
    ("values", "label", "message"),
    [
        ([0, 1, 2, 5], "y", r"column 'y': holds 0 to 5, but a label is 0, 1 or null; write --label y:at_least=NUMBER"),
        (["yes", "no"], "y", r"holds strings such as .*Store 'no' and 'yes' as 0 and 1"),
        ([1, 1], "y", r"column 'y': every row has the same label"),
        ([1, 2], "y:at_least=3", r"column 'y': every row has the same label"),
    ],
)
def test_labels_that_do_not_fit_their_kind_are_refused(
    values: list[Any], label: str, message: str, tmp_path: Path
) -> None:
    file = csv(tmp_path / "logs.csv", logs(y=values * (100 // len(values))))
    with pytest.raises(DataError, match=message):
        started(tmp_path, file, labels=[StatedLabel.parse(label)])


@pytest.mark.parametrize("text", ["y:at_least=", "y:at_least=x", "y:stars", "y:at_least=nan"])
def test_unknown_kinds_of_labels_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="expected binary, regression or at_least=NUMBER after the colon"):
        StatedLabel.parse(text)


def test_stated_columns_must_exist(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--user usre_id: no such column. .* Did you mean 'user_id'"):
        started(tmp_path, csv(tmp_path / "logs.csv", logs()), user="usre_id")


def test_the_user_and_the_item_are_features_and_reach_the_predictions(tmp_path: Path) -> None:
    rows = logs(who=[row % 9 for row in range(100)], sku=[float(row % 13) if row % 5 else None for row in range(100)])
    del rows["user_id"], rows["item_id"]
    config = load_config(started(tmp_path, csv(tmp_path / "logs.csv", rows), user="who", item="sku"))
    assert config.features.user == "who"
    assert [column.name for column in config.features.ids] == ["sku"]
    assert {"who", "sku"} <= config.features.discrete.keys()


def test_lists_of_strings_are_pooled(tmp_path: Path) -> None:
    genres = [["drama", "war"], ["comedy"], [], None] * 25
    cost = pa.array([Decimal(row * 37 % 100) / 4 for row in range(100)], pa.decimal128(9, 2))
    pq.write_table(pa.table(logs(genres=genres, cost=cost)), tmp_path / "a.parquet")
    written = started(tmp_path, tmp_path / "a.parquet")
    config = load_config(written)
    assert config.features.histories["genres"].columns == ["genres"]
    assert "cost" in [column.name for column in config.features.continuous]
    trained(written)


def test_a_column_whose_later_values_are_new_is_no_feature(tmp_path: Path) -> None:
    rows = logs(month=[f"2026-{1 + row // 10}" for row in range(100)])
    written = started(tmp_path, csv(tmp_path / "logs.csv", rows), "0.2")
    assert "month" not in load_config(written).features.discrete
    assert "100% of the later rows hold a value that the earlier rows lack" in written.read_text()
    assert not (tmp_path / "vocabularies" / "month.parquet").exists()


def test_missing_values_do_not_widen_the_scale_of_a_column(tmp_path: Path) -> None:
    rows = logs(year=[1950 + row % 50 if row % 10 else None for row in range(100)])
    written = started(tmp_path, csv(tmp_path / "logs.csv", rows))
    scale = {row["name"]: row for row in pq.read_table(tmp_path / "analysis.parquet").to_pylist()}
    logarithms = np.log1p([1950 + row % 50 for row in range(100) if row % 10])
    assert scale["year"]["mean"] == pytest.approx(logarithms.mean())
    assert scale["year"]["deviation"] == pytest.approx(logarithms.std())
    trained(written)
