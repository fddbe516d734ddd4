"""What cannot be scored is an error, or is listed with its reason; it never leaves in silence."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import Recorder, feed_config, feed_table, write_feed

from recap.data.batch import Batch
from recap.errors import DataError
from recap.inference.bulk import BulkOptions
from recap.inference.files import predict_files
from recap.inference.predictor import Predictions, Predictor
from recap.runs import find_model_directory
from recap.training.trainer import train

LISTED = BulkOptions(lists_bad=True)
ROWS = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    train(feed_config(write_feed(folder), folder / "run", training={"num_train_steps": 1}), Recorder())
    return folder


@pytest.fixture(scope="module")
def predictor(folder: Path) -> Predictor:
    return Predictor.open(find_model_directory(folder / "run"))


def with_bad(table: pa.Table, column: str, rows: set[int], value: Any) -> pa.Table:
    """`table` with `value` in some rows of a column."""
    values = [value if row in rows else float(item) for row, item in enumerate(table.column(column).to_pylist())]
    return table.set_column(table.schema.get_field_index(column), column, pa.array(values))


def errors(output: Path) -> list[dict[str, Any]]:
    file = output / "_errors.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(binary=st.sets(st.integers(0, ROWS - 1), max_size=5), codes=st.sets(st.integers(0, ROWS - 1), max_size=5))
def test_bad_rows_have_nulls_and_the_others_their_predictions(
    predictor: Predictor, tmp_path_factory: pytest.TempPathFactory, binary: set[int], codes: set[int]
) -> None:
    tmp_path = tmp_path_factory.mktemp("bad")
    table = feed_table(ROWS)
    bad = with_bad(with_bad(table, "in_network", binary, 2), "hour", codes, -1.5)
    for name, rows in (("bad", bad), ("good", table)):
        pq.write_table(rows, tmp_path / f"{name}.parquet", row_group_size=15)
    done = predict_files(predictor, [str(tmp_path / "*.parquet")], tmp_path / "out", LISTED)
    scored, expected = (pq.read_table(file) for file in done.files)
    assert scored.select(["user_id", "served_at_ms", "post_id"]).equals(expected.select([0, 1, 2]))
    listed = errors(tmp_path / "out")
    assert sorted(item["row"] for item in listed) == sorted(binary | codes)
    assert {item["row"] for item in listed if item["column"] == "hour"} >= codes - binary
    for task in ("like", "share", "score"):
        truth = [
            None if row in binary | codes else value for row, value in enumerate(expected.column(task).to_pylist())
        ]
        assert scored.column(task).to_pylist() == truth
    assert (done.unscored, done.failed) == (len(binary | codes), [])


def test_lines_chunks_ends_and_files_that_cannot_be_read_are_listed(predictor: Predictor, tmp_path: Path) -> None:
    table = feed_table(60)
    pq.write_table(table, tmp_path / "chunk.parquet", row_group_size=20)
    content = bytearray((tmp_path / "chunk.parquet").read_bytes())
    offset = pq.read_metadata(tmp_path / "chunk.parquet").row_group(1).column(3).data_page_offset
    content[offset : offset + 20] = b"\xff" * 20
    (tmp_path / "chunk.parquet").write_bytes(content)
    (tmp_path / "file.parquet").write_bytes(b"no Parquet")
    pq.write_table(feed_table(0), tmp_path / "empty.parquet")
    pq.write_table(table.drop_columns(["hour"]), tmp_path / "hour.parquet")
    pq.write_table(table, tmp_path / "ok.parquet")
    lines: list[str] = []
    done = predict_files(predictor, [str(tmp_path / "*.parquet")], tmp_path / "out", LISTED, say=lines.append)
    assert [file.name for file in done.files] == ["chunk.parquet", "empty.parquet", "ok.parquet"]
    assert [Path(file).name for file in done.failed] == ["file.parquet", "hour.parquet"]
    scored, empty, ok = (pq.read_table(file) for file in done.files)
    assert (scored.num_rows, empty.num_rows, empty.schema) == (60, 0, ok.schema)
    assert scored.slice(0, 20).equals(ok.slice(0, 20))
    assert scored.slice(20, 20).column("score").null_count == 20
    assert scored.slice(40).equals(ok.slice(40))
    listed = errors(tmp_path / "out")
    assert [item["row"] for item in listed] == [None, None, *range(20, 40)]
    assert listed[0]["reason"].startswith("not readable as Parquet"), "without the name of the file again"
    assert listed[1]["column"] == "hour"
    assert listed[1]["reason"].startswith("is missing, but the configuration reads it")
    again = predict_files(predictor, [str(tmp_path / "*.parquet")], tmp_path / "out", LISTED)
    assert (again.before, again.unscored, len(again.failed)) == (3, 20, 2), "counted again, not forgotten"
    assert sorted(map(str, errors(tmp_path / "out"))) == sorted(map(str, listed)), "listed once"
    with pytest.raises(DataError, match=r"file.parquet"):
        predict_files(predictor, [str(tmp_path / "*.parquet")], tmp_path / "out")


def test_files_with_bad_rows_are_an_error_again_unless_these_are_listed(predictor: Predictor, tmp_path: Path) -> None:
    pq.write_table(with_bad(feed_table(9), "in_network", {4}, 7), tmp_path / "bad.parquet")
    predict_files(predictor, [str(tmp_path / "bad.parquet")], tmp_path / "out", LISTED)
    with pytest.raises(DataError, match=r"bad.parquet: column 'in_network', row 4: found 7, expected 0 or 1"):
        predict_files(predictor, [str(tmp_path / "bad.parquet")], tmp_path / "out")


class Overflowing(Predictor):
    """A model whose score of row 3 is not a number."""

    def score(self, batch: Batch) -> Predictions:
        predictions = super().score(batch)
        predictions.scores[3:4] = torch.nan
        return predictions


def test_predictions_that_are_not_finite_never_leave(folder: Path, tmp_path: Path) -> None:
    predictor = Overflowing.open(find_model_directory(folder / "run"))
    pq.write_table(with_bad(feed_table(9), "in_network", {1}, 7), tmp_path / "x.parquet")
    done = predict_files(predictor, [str(tmp_path / "x.parquet")], tmp_path / "out", LISTED)
    scores = pq.read_table(done.files[0]).column("score").to_pylist()
    assert [row for row, score in enumerate(scores) if score is None] == [1, 4], "row 3 of those scored is row 4"
    assert errors(tmp_path / "out")[1]["reason"] == "the prediction of score is nan; check the features of this row"
    pq.write_table(feed_table(9), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"x.parquet: row 3: the prediction of score is nan; check the features"):
        predict_files(predictor, [str(tmp_path / "x.parquet")], tmp_path / "out", overwrite=True)
