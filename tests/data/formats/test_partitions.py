"""Partitioned folders: the values in a path are constant columns, as in pyarrow's datasets."""

import tempfile
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from data.stream_law import assert_resumes_everywhere
from hypothesis import given
from hypothesis import strategies as st
from support import Recorder, feed_config, feed_table

from recap.config.data import SourceKind
from recap.config.recap import JobMode
from recap.data.encoding.assets import load_assets
from recap.data.formats.files import find_files
from recap.data.formats.partitions import folder_values
from recap.data.formats.tables import TableFiles
from recap.data.open import open_stream
from recap.data.stream.batch_stream import BatchStream
from recap.data.tools.convert import convert_files
from recap.data.tools.guess.columns import guess_columns
from recap.data.tools.inspect import inspect_files
from recap.data.tools.vocabulary import count_values
from recap.errors import DataError
from recap.inference.files import predict_files
from recap.inference.predictor import Predictor
from recap.runs import find_model_directory
from recap.training.trainer import train

PARTS = {"language=en/hour=07": 50, "language=7/hour=23": 40, "language=__HIVE_DEFAULT_PARTITION__/hour=0": 30}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A feed whose files lack language and hour, in every format; words.parquet beside it."""
    folder = tmp_path_factory.mktemp("partitions")
    (folder / "plain").mkdir()
    for seed, (path, rows) in enumerate(PARTS.items()):
        table = feed_table(rows, seed).drop_columns(["hour", "language", "vector", "topics", "age"])
        pq.write_table(table, folder / "plain" / "part.parquet", row_group_size=20)
        for kind in get_args(SourceKind):
            convert_files([str(folder / "plain" / "*.parquet")], folder / kind / path, kind)
    pq.write_table(pa.table({"value": ["ja", "7", "en"]}), folder / "words.parquet")
    return folder


def features(folder: Path, **changes: Any) -> dict[str, Any]:
    discrete = {"hour": {"size": 24}, "language": {"vocabulary": str(folder / "words.parquet")}}
    return {"continuous": ["followers"], "binary": [], "discrete": discrete, "vectors": {}} | changes


def open_data(folder: Path, kind: SourceKind, features: dict[str, Any], window_rows: int = 0) -> BatchStream:
    source = {"kind": kind, "inputs": str(folder / kind / "**" / "part*")}
    if kind == "tfrecord":
        source["schema_path"] = str(folder / kind / next(iter(PARTS)) / "schema.json")
    train_data = {"source": source, "global_batch_size": 16, "shuffle_window_rows": window_rows}
    config = feed_config(folder, folder / "run", features=features, train_data=train_data, validation_data={})
    return open_stream(config, load_assets(config.features), JobMode.TRAIN)


values = (
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)
    | st.integers(-(2**31), 2**31 - 1).map(str)
    | st.none()
    | st.just("07")
)


@given(st.lists(st.tuples(values, values), min_size=1, max_size=4))
def test_folders_have_the_texts_that_pyarrow_writes(rows: list[tuple[str | None, str | None]]) -> None:
    first, second = ([row[index] for row in rows] for index in (0, 1))
    table = pa.table({"row": range(len(rows)), "a b": pa.array(first, pa.string()), "c": pa.array(second, pa.string())})
    with tempfile.TemporaryDirectory() as root:
        pa.dataset.write_dataset(table, root, format="parquet", partitioning=["a b", "c"], partitioning_flavor="hive")
        files = find_files([f"{root}/**/*.parquet"])
        format_ = TableFiles.open(files).format
        columns = ["c", "row", "a b"]
        tables = pa.concat_tables(format_.read(file, 0, columns) for file in files).sort_by("row")
        assert tables.column_names == columns
        assert tables.to_pylist() == table.select(columns).to_pylist()
        assert {format_.schema(file).field("a b").type for file in files} == {pa.string()}


@pytest.mark.parametrize("kind", get_args(SourceKind))
def test_every_format_has_the_columns_of_its_folders(kind: SourceKind, folder: Path) -> None:
    stream = open_data(folder, kind, features(folder))
    seen: set[tuple[int, int]] = set()
    for _, batch in zip(range(8), stream, strict=False):
        seen |= set(map(tuple, batch.discrete.tolist()))
    assert seen == {(8, 3), (24, 2), (1, 0)}  # code 0 is unknown; "7" is the second word


def test_a_stream_over_folders_resumes_exactly_at_every_batch(folder: Path) -> None:
    assert_resumes_everywhere(lambda: open_data(folder, "parquet", features(folder), window_rows=30), batches=10)


def test_a_folder_is_read_as_the_configured_type_or_refused(folder: Path) -> None:
    stream = open_data(folder, "parquet", features(folder, continuous=["hour"], discrete={}))
    assert {value for _, batch in zip(range(8), stream, strict=False) for value in batch.continuous[:, 0].tolist()} == {
        0.0,
        7.0,
        23.0,
    }
    message = "column 'language': is 'en' in the path of the file, expected double"
    with pytest.raises(DataError, match=f"language=en/hour=07/part.parquet: {message}"):
        open_data(folder, "parquet", features(folder, continuous=["language"], discrete={}))


def test_users_may_be_numbers_in_one_folder_and_names_in_another(folder: Path) -> None:
    stream = open_data(folder, "parquet", features(folder, discrete={}, user="hour"))
    users = {user for _, batch in zip(range(8), stream, strict=False) for user in batch.user.tolist()}
    assert (len(users), users & {0, 7, 23}) == (3, {0, 23})  # "07" is a text
    (folder / "users").mkdir()
    for user in ("1", "x"):
        (folder / "users" / f"user_id={user}").mkdir()
        table = feed_table(20).drop_columns(["user_id"])
        pq.write_table(table, folder / "users" / f"user_id={user}" / "part.parquet")
    users = folder / "users" / "parquet"
    users.symlink_to(folder / "users", target_is_directory=True)
    stream = open_data(folder / "users", "parquet", features(folder, user="user_id"))
    assert len({user for _, batch in zip(range(3), stream, strict=False) for user in batch.user.tolist()}) == 2
    assert inspect_files(stream.source.files).columns[-1].type == "string"


def test_a_column_of_the_file_wins_over_its_folders(tmp_path: Path) -> None:
    file = tmp_path / "a=1" / "b=2" / "a=3" / "x=4.parquet"
    file.parent.mkdir(parents=True)
    pq.write_table(pa.table({"b": ["own"], "c": [0]}), file)
    format_ = TableFiles.open([str(file)]).format
    assert format_.schema(str(file)).names == ["b", "c", "a"]
    assert format_.read(str(file), 0, ["a", "b"]).to_pydict() == {"a": ["1"], "b": ["own"]}
    assert folder_values("s3://bucket/=1/x=a%20b/b%2Fy=/file=1") == {"x": "a b", "b/y": ""}


def test_skipped_rows_are_missing_from_constant_columns(folder: Path) -> None:
    file = str(folder / "parquet" / "language=en" / "hour=07" / "part.parquet")
    format_ = TableFiles.open([file]).format
    assert format_.read(file, 0, ["hour"], [3, 5]).to_pydict() == {"hour": ["07"] * 18}
    table = format_.read(file, 2, ["post_id", "hour"], [0])
    assert (table.column("post_id").to_pylist(), table.num_rows) == (list(range(41, 50)), 9)


def test_commands_see_the_columns_of_folders(folder: Path, tmp_path: Path) -> None:
    inputs = [str(folder / "parquet" / "*" / "*" / "*.parquet")]
    found = {column.name: column for column in inspect_files(inputs).columns}
    assert (found["hour"].type, found["hour"].distinct, found["language"].type) == ("string", 3, "string")
    assert found["language"].missing == 30
    assert {"language", "hour"} <= {guess.name for guess in guess_columns(inputs).columns.discrete}
    assert count_values(inputs, ["language"])["language"].to_pydict() == {"value": ["en", "7"], "count": [50, 40]}
    written, _ = convert_files(inputs, tmp_path / "out", "jsonl")
    assert sorted(str(file.parent.relative_to(tmp_path / "out")) for file in written) == sorted(PARTS)
    converted = inspect_files([str(tmp_path / "out/*/*/*.jsonl")])
    assert {column.name: column.distinct for column in converted.columns}["hour"] == 3


def test_predictions_carry_the_columns_of_folders(folder: Path, tmp_path: Path) -> None:
    values = features(folder, ids=["post_id", "language"])
    inputs = str(folder / "parquet" / "**" / "*.parquet")
    data = {"source": {"inputs": inputs}}
    changes = {"training": {"num_train_steps": 1}, "train_data": data, "validation_data": {"validation": data}}
    train(feed_config(folder, tmp_path / "run", features=values, **changes), Recorder())
    predictor = Predictor.open(find_model_directory(tmp_path / "run"))
    files = predict_files(predictor, [inputs], tmp_path / "out").files
    found = {pq.ParquetFile(file).read().column("language")[0].as_py() for file in files}
    assert found == {"7", "en", None}
