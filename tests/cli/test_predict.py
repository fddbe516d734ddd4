"""`recap predict`: formats, standard output, misuse, and exit codes."""

import io
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from support import Recorder, feed_config, feed_table, write_feed
from typer.testing import CliRunner, Result

from recap.cli.main import app
from recap.errors import DataError, InputError, RunError
from recap.training.trainer import train


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, three files to predict, and their predictions in `parquet/`."""
    folder = tmp_path_factory.mktemp("model")
    train(feed_config(write_feed(folder), folder / "run", training={"num_train_steps": 1}), Recorder())
    (folder / "in").mkdir()
    for number, rows in enumerate((50, 0, 20)):
        pq.write_table(feed_table(rows, seed=number), folder / "in" / f"{number}.parquet", row_group_size=30)
    assert predict(folder, "--output", folder / "parquet").exit_code == 0
    return folder


def predict(folder: Path, *options: str | Path, inputs: str = "in/*.parquet") -> Result:
    done = CliRunner().invoke(app, ["predict", f"{folder}/run", f"{folder}/{inputs}", *map(str, options)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def expected(folder: Path) -> list[dict[str, Any]]:
    """The predictions for all files, as plain values in float32."""
    rows: list[dict[str, Any]] = pa.concat_tables(
        pq.read_table(folder / "parquet" / f"{number}.parquet") for number in range(3)
    ).to_pylist()
    return rows


def read(kind: str, data: bytes, *, stream: bool) -> list[dict[str, Any]]:
    if kind == "jsonl":
        return [json.loads(line) for line in data.splitlines()]
    if kind == "arrow":
        source = io.BytesIO(data)
        table = (pa.ipc.open_stream(source) if stream else pa.ipc.open_file(source)).read_all()
    else:
        types = {"like": pa.float32(), "share": pa.float32()}
        table = pacsv.read_csv(io.BytesIO(data), convert_options=pacsv.ConvertOptions(column_types=types))
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


@pytest.mark.parametrize("kind", ["arrow", "csv", "jsonl"])
def test_every_format_holds_the_same_predictions_in_files_and_on_standard_output(
    folder: Path, tmp_path: Path, kind: str
) -> None:
    done = predict(folder, "--output", tmp_path, "--format", kind)
    assert "70 rows predicted" in done.stdout
    written = [read(kind, (tmp_path / f"{n}.{kind}").read_bytes(), stream=False) for n in range(3)]
    assert [len(rows) for rows in written] == [50, 0, 20]
    assert [row for rows in written for row in rows] == expected(folder)
    piped = predict(folder, "--output", "-", "--format", kind)
    assert read(kind, piped.stdout_bytes, stream=True) == expected(folder), "data alone, in the order of the files"
    assert "70 rows predicted" in piped.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--output=x", "--format=xml"], "--format: unknown format 'xml'. Known: "),
        (["--output=-", "--format=parquet"], "--format: Parquet cannot be written to a pipe; choose arrow, csv or"),
        (["--output=x", "--format=tfrecord"], "--format: unknown format 'tfrecord'"),
        (["--output=-", "--overwrite"], "--overwrite: standard output replaces no file; leave the option out"),
        (["--output=x", "--on-bad-data=skip"], "--on-bad-data: expected stop or list, found 'skip'"),
        (["--output=x", "--precision=fp8"], "precision: found 'fp8'; expected auto, float32, bf16 or int8"),
        (["--output=x", "--schema=none.json"], "--schema: none.json cannot be read (No such file or directory)"),
    ],
)
def test_misuse_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        predict(folder, *options)
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_one_stream_has_one_set_of_columns(folder: Path, tmp_path: Path) -> None:
    pq.write_table(feed_table(5), tmp_path / "0.parquet")
    pq.write_table(feed_table(5).drop_columns(["user_id"]), tmp_path / "1.parquet")
    command = ["predict", f"{folder}/run", f"{tmp_path}/*.parquet", "--output", "-"]
    error = CliRunner().invoke(app, command).exception
    assert isinstance(error, DataError)
    assert "1.parquet: its predictions have the columns served_at_ms (int64), post_id" in str(error)
    assert str(error).endswith("so predict them one by one, or write files with --output DIR")


def test_a_column_that_the_format_cannot_hold_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"column 'topics': holds .*list.*, which CSV cannot store; leave it out"):
        predict(folder, "--output", tmp_path / "out", "--format=csv", "--set=features.ids=[topics]")
    assert not (tmp_path / "out").exists()


def test_what_could_not_be_scored_makes_the_exit_code_1(folder: Path, tmp_path: Path) -> None:
    table = feed_table(40)
    network = pa.array([9 if row < 30 else 1 for row in range(40)])
    pq.write_table(table.set_column(5, "in_network", network), tmp_path / "bad.parquet")
    command = ["predict", f"{folder}/run", f"{tmp_path}/bad.parquet", "--output"]
    stopped = CliRunner().invoke(app, [*command, str(tmp_path / "out")])
    assert isinstance(stopped.exception, DataError)
    assert "to go on past rows that cannot be scored, add --on-bad-data list" in stopped.output
    listed = CliRunner().invoke(app, [*command, str(tmp_path / "out"), "--on-bad-data=list"])
    assert isinstance(listed.exception, RunError)
    assert str(listed.exception) == f"30 rows could not be scored: listed in {tmp_path}/out/_errors.jsonl"
    piped = CliRunner().invoke(app, [*command, "-", "--on-bad-data=list"])
    assert str(piped.exception) == "30 rows could not be scored: their rows have no predictions"
    assert len([line for line in piped.stderr.splitlines() if "column 'in_network', row" in line]) == 20
    assert len(piped.stdout.splitlines()) == 41


@pytest.mark.slow
def test_a_pipe_whose_reader_goes_away_ends_the_command_without_an_error(folder: Path) -> None:
    command = [sys.executable, "-m", "recap", "predict", f"{folder}/run", f"{folder}/in/*.parquet", "--output=-"]
    script = f"set -o pipefail; {shlex.join(command)} | head -c 1"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=os.environ | {"LC_ALL": "C"})
    assert (done.returncode, done.stdout) == (0, '"'), done.stderr
    assert "Broken" not in done.stderr
    assert "Traceback" not in done.stderr
