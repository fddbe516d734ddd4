from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import Recorder

from recap.config.file.load import load_config, resolve
from recap.config.file.starter import Columns, starter
from recap.data.tools.check import check_data
from recap.data.tools.guess import guess_columns
from recap.errors import DataError
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
        "topic_id": {"size": 30},
        "hour": {"size": 24},
        "topics": {"size": 9, "length": 3},
    }
    assert names(columns.vocabularies) == ["language"]
    assert {guess.name: guess.value for guess in columns.vectors} == {"embedding": 4}
    assert names(columns.ids) == ["post_id", "trace_id"]
    assert names(columns.user) == ["user_id"]
    assert names(columns.timestamp) == ["served_at_ms"]


def test_labels_weigh_one_over_their_rate_and_complaints_negatively(columns: Columns) -> None:
    weights = {label.name: label.value for label in columns.labels}
    rate = np.mean(table().slice(0, 300).column("is_clicked").to_numpy())  # of the sampled row group
    assert weights["is_clicked"] == pytest.approx(1 / rate, rel=0.05)
    assert weights["is_reported"] < -10


def test_every_guess_has_a_reason(columns: Columns) -> None:
    assert all(guess.comment for guesses in vars(columns).values() for guess in guesses)
    assert {guess.name: guess.comment for guess in columns.left_out} == {
        "is_clicked_at_ms": "another time; a model can learn from an age or hour derived from it",
        "day": "null in every sampled row",
        "date": "a date in digits; a model can learn from an age or weekday derived from it",
        "history": "lists of varying length; if they are past events, put them under histories",
        "place": "type struct<x: int64> is not supported",
        "version": "always 7",
        "play_time_ms": "named like an outcome, which is known only after the impression",
        "not_a_number": "never a finite number",
        "default": "its name has a special meaning in a configuration; rename it",
    }
    assert columns.continuous[0].comment.endswith("% null")


def test_the_starter_config_is_valid_fits_the_data_and_trains(file: Path, tmp_path: Path) -> None:
    found = guess_columns([str(file)])
    written = tmp_path / "ranker.yaml"
    written.write_text(starter(found.columns, found.source, found.rows))
    check_data(resolve(written))
    overrides = [f"training.save_dir={tmp_path}/run", "training.num_train_steps=2"]
    assert train(load_config(written, overrides), Recorder()).trained


def test_data_without_labels_or_rows_or_with_different_columns_is_refused(file: Path, tmp_path: Path) -> None:
    def write(name: str, rows: pa.Table) -> str:
        pq.write_table(rows, tmp_path / name)
        return str(tmp_path / name)

    no_label = write("no_label.parquet", table().drop_columns(["is_clicked", "is_reported"]))
    with pytest.raises(DataError, match=r"no column looks like a label: .* Found: user_id, post_id"):
        guess_columns([no_label])
    with pytest.raises(DataError, match="holds no rows; columns are guessed from their values"):
        guess_columns([write("empty.parquet", table().slice(0, 0))])
    with pytest.raises(DataError, match=r"no_label.parquet: lacks the columns is_clicked, is_reported of .*rows"):
        guess_columns([str(file), no_label])
    other = table().set_column(0, "user_id", pa.array(["a"] * ROWS))
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
        ("user_id", [5.0, 6.0, 7.0, 8.0], "named like a user, but not integers; every row needs its user"),
        ("user_id", ["a", None, "b", "c"], "named like a user, but null in some rows; every row needs its user"),
        ("vector", [[1.0, 2.0], [1.0, float("nan")]] * 2, "lists of 2 floats, some of them not finite"),
        ("vector", [[1.0, 1e300], [1.0, 2.0]] * 2, "lists of 2 floats, some of them not finite"),
        (
            "ids",
            [[10**12, 5], [1, 2]] * 2,
            "lists of integers from 1 to 1,000,000,000,000: not usable as codes of an embedding table",
        ),
        ("ids", [[-1, 5], [1, 2]] * 2, "lists of integers from -1 to 5: not usable as codes of an embedding table"),
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


def test_numbers_of_0_1_and_nan_are_continuous(tmp_path: Path) -> None:
    assert names(guessed(tmp_path, {"flag": [0.0, 1.0, float("nan"), 1.0]}).continuous) == ["x", "flag"]


def test_rows_are_sampled_from_all_over_the_files(tmp_path: Path) -> None:
    values = [0, 1] * 50 + list(range(300))
    columns = guessed(tmp_path, {"kind": values, "late": [0] * 399 + [1]}, row_group_size=100)
    assert names(columns.continuous) == ["x", "kind"]
    assert names(columns.binary) == ["late"]


def test_files_may_differ_in_dictionaries_and_booleans(tmp_path: Path) -> None:
    plain = {"flag": [True, False] * 2, "word": ["a", "b"] * 2, "gone": [1.0, 2.0, 3.0, 4.0]}
    other = {"flag": [1, 0] * 2, "word": pa.array(["a", "b"] * 2).dictionary_encode(), "gone": pa.nulls(4)}
    columns = guessed(tmp_path, plain, other)
    assert names(columns.binary) == ["flag"]
    assert names(columns.vocabularies) == ["word"]
    assert [guess.comment for guess in columns.left_out] == [f"has no type in {tmp_path}/f1.parquet"]


def test_an_empty_row_group_is_skipped(tmp_path: Path) -> None:
    rows = table()
    with pq.ParquetWriter(tmp_path / "rows.parquet", rows.schema) as writer:
        writer.write_table(rows.slice(0, 0))
        writer.write_table(rows)
    assert names(guess_columns([str(tmp_path / "rows.parquet")]).columns.labels) == ["is_clicked", "is_reported"]


def test_data_without_a_feature_or_with_duplicate_columns_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"is_clicked": [0, 1], "word": ["a", "b"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"no column looks like a feature. Strings need a vocabulary: word."):
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
