"""A repeated bulk prediction does what is left to do, and nothing is mistaken for its own work."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import Recorder, feed_config, feed_table, write_feed

from recap.errors import InputError
from recap.inference.bulk import BulkOptions, Progress
from recap.inference.files import predict_files, shares
from recap.inference.predictor import Predictor
from recap.runs import find_model_directory
from recap.training.trainer import train

KILLED = """
import os, signal, sys
from recap.cli.main import main
from recap.inference.bulk import BackgroundWriter

write, left = BackgroundWriter._write, int(sys.argv.pop(1))

def killed(self, table):
    global left
    write(self, table)
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)

BackgroundWriter._write = killed
main()
"""
"""The command line, killed after a given number of chunks were written."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, and three files to predict."""
    folder = tmp_path_factory.mktemp("model")
    train(feed_config(write_feed(folder), folder / "run", training={"num_train_steps": 1}), Recorder())
    (folder / "in").mkdir()
    for number in range(3):
        pq.write_table(feed_table(90, seed=number), folder / "in" / f"{number}.parquet", row_group_size=30)
    return folder


@pytest.fixture(scope="module")
def predictor(folder: Path) -> Predictor:
    return Predictor.open(find_model_directory(folder / "run"))


def inputs(folder: Path) -> list[str]:
    return [str(folder / "in" / "*.parquet")]


def times(output: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in output.glob("[!_]*")}


def test_only_new_changed_and_lost_files_are_predicted_again(predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(4):
        pq.write_table(feed_table(20, seed=number), tmp_path / "in" / f"{number}.parquet")
    predict_files(predictor, inputs(tmp_path), tmp_path / "out")
    before = times(tmp_path / "out")
    pq.write_table(feed_table(21), tmp_path / "in" / "0.parquet")
    (tmp_path / "out" / "1.parquet").unlink()
    (tmp_path / "out" / "2.parquet").write_bytes(b"PAR1")
    pq.write_table(feed_table(5), tmp_path / "in" / "new.parquet")
    done = predict_files(predictor, inputs(tmp_path), tmp_path / "out")
    assert (done.before, done.rows, len(done.files)) == (1, 21 + 20 + 20 + 5, 5)
    after = times(tmp_path / "out")
    assert {name for name in after if after[name] == before.get(name)} == {"3.parquet"}
    assert [pq.read_metadata(file).num_rows for file in done.files] == [21, 20, 20, 20, 5]
    predict_files(predictor, inputs(tmp_path)[:1], tmp_path / "out")
    assert times(tmp_path / "out") == after


def test_predictions_of_other_settings_are_replaced_only_when_asked(
    folder: Path, predictor: Predictor, tmp_path: Path
) -> None:
    predict_files(predictor, inputs(folder), tmp_path)
    before = times(tmp_path)
    other = Predictor.open(find_model_directory(folder / "run"), ["scoring.weights.like=3"], precision="bf16")
    message = r"differ in: configuration, precision \(float32 → bf16\); add --overwrite to replace them, or choose"
    with pytest.raises(InputError, match=message):
        predict_files(other, inputs(folder), tmp_path)
    assert times(tmp_path) == before
    lines: list[str] = []
    one = [str(folder / "in" / "1.parquet")]
    assert predict_files(other, one, tmp_path, overwrite=True, say=lines.append).before == 0
    assert lines == [f"2 files of other settings stay in {tmp_path}, such as 0.parquet"]
    done = predict_files(other, inputs(folder), tmp_path)
    assert (done.before, len(done.files)) == (1, 3), "files of other settings are no longer complete"


def test_a_file_that_recap_did_not_write_is_kept(folder: Path, predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "1.parquet").write_text("mine")
    with pytest.raises(InputError, match=r"1.parquet: already exists; add --overwrite to replace it, or choose"):
        predict_files(predictor, inputs(folder), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["1.parquet"]
    (tmp_path / "1.parquet").unlink()
    for content in ("mine", '{"settings": 3}'):
        (tmp_path / "_predictions.jsonl").write_text(content)
        with pytest.raises(InputError, match=r"_predictions.jsonl: damaged, or not written by recap predict; remove"):
            predict_files(predictor, inputs(folder), tmp_path)
        assert (tmp_path / "_predictions.jsonl").read_text() == content


def test_two_commands_never_write_into_one_folder(folder: Path, predictor: Predictor, tmp_path: Path) -> None:
    class Second(Progress):
        def start(self, files: int, rows: int) -> None:
            with pytest.raises(InputError, match=r"another recap predict writes into this folder; wait for it, or"):
                predict_files(predictor, inputs(folder), tmp_path, overwrite=True)

    predict_files(predictor, inputs(folder), tmp_path, progress=Second())
    assert predict_files(predictor, inputs(folder), tmp_path).before == 3


def test_a_damaged_line_of_the_record_is_a_file_to_predict_again(
    folder: Path, predictor: Predictor, tmp_path: Path
) -> None:
    predict_files(predictor, inputs(folder), tmp_path)
    record = tmp_path / "_predictions.jsonl"
    record.write_bytes(record.read_bytes()[:-30])
    assert predict_files(predictor, inputs(folder), tmp_path).before == 2
    assert [json.loads(line) for line in record.read_text().splitlines()]


def test_a_change_of_format_leaves_the_other_files(folder: Path, predictor: Predictor, tmp_path: Path) -> None:
    predict_files(predictor, inputs(folder), tmp_path)
    predict_files(predictor, inputs(folder), tmp_path, BulkOptions("csv"))
    assert predict_files(predictor, inputs(folder), tmp_path).before == 3
    assert sorted(times(tmp_path)) == sorted(f"{number}.{kind}" for number in range(3) for kind in ("csv", "parquet"))


@pytest.mark.slow
@pytest.mark.parametrize("chunks", [1, 5])
def test_a_killed_prediction_continues_with_the_file_it_was_at(
    folder: Path, predictor: Predictor, tmp_path: Path, chunks: int
) -> None:
    command = ["predict", str(folder / "run"), *inputs(folder), "--output", str(tmp_path)]
    killed = subprocess.run([sys.executable, "-c", KILLED, str(chunks), *command], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    complete = chunks // 3
    before = times(tmp_path)
    assert set(before) == {f"{number}.parquet" for number in range(complete)} | {f"{complete}.parquet.unfinished"}
    done = predict_files(predictor, inputs(folder), tmp_path)
    assert done.before == complete
    after = times(tmp_path)
    assert sorted(after) == ["0.parquet", "1.parquet", "2.parquet"], "what the kill left is removed"
    assert all(after[name] == time for name, time in before.items() if name in after)
    whole = predict_files(predictor, inputs(folder), tmp_path / "whole")
    assert [path.read_bytes() for path in whole.files] == [path.read_bytes() for path in done.files]


@given(sizes=st.lists(st.integers(0, 1000), max_size=30), count=st.integers(1, 5))
def test_ranks_share_the_files_by_size(sizes: list[int], count: int) -> None:
    files = {f"{index}": size for index, size in enumerate(sizes)}
    parts = shares(files, count)
    assert sorted(file for part in parts for file in part) == sorted(files)
    sums = [sum(max(1, files[file]) for file in part) for part in parts]
    assert max(sums) - min(sums) <= max([1, *sizes]), "no file could move to make them more even"
    assert shares(dict(reversed(files.items())), count) == parts
