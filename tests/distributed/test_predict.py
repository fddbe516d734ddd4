"""Ranks under torchrun share the files of a prediction."""

import json
import subprocess
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from distributed.test_ranks import ALL, LAUNCH
from support import Recorder, feed_config, feed_table, write_feed

from recap.inference.files import predict_files
from recap.inference.predictor import Predictor
from recap.runs import find_model_directory
from recap.training.trainer import train


def predict(folder: Path, output: str, *options: str) -> "subprocess.CompletedProcess[str]":
    arguments = ["-m", "recap", "predict", f"{folder}/run", f"{folder}/in/*.parquet", "--output", f"{folder}/{output}"]
    return subprocess.run([*LAUNCH, "2", *arguments, *options], capture_output=True, text=True, timeout=200, env=ALL)


@pytest.mark.slow
def test_two_ranks_write_what_one_writes_and_tell_of_a_failure_once(tmp_path: Path) -> None:
    train(feed_config(write_feed(tmp_path), tmp_path / "run", training={"num_train_steps": 1}), Recorder())
    (tmp_path / "in").mkdir()
    for number in range(4):
        pq.write_table(feed_table(20 * number + 20, seed=number), tmp_path / "in" / f"{number}.parquet")
    done = predict(tmp_path, "two")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("200 rows predicted") == done.stdout.count("written: 4 files") == 1
    predictor = Predictor.open(find_model_directory(tmp_path / "run"))
    whole = predict_files(predictor, [str(tmp_path / "in" / "*.parquet")], tmp_path / "one")
    for file in whole.files:
        assert pq.read_table(file).equals(pq.read_table(tmp_path / "two" / file.name))
    assert sorted(path.stem for path in (tmp_path / "two").iterdir()) == [*"0123", "_predictions"]
    assert predict_files(predictor, [str(tmp_path / "in" / "*.parquet")], tmp_path / "two").before == 4

    table = feed_table(30)
    network = pa.array([9.0 if row == 7 else 1.0 for row in range(30)])
    for name in ("4", "5"):
        pq.write_table(table.set_column(5, "in_network", network), tmp_path / "in" / f"{name}.parquet")
    failed = predict(tmp_path, "two")
    assert failed.returncode == 1
    errors = [line for line in failed.stderr.splitlines() if "column 'in_network', row 7: found 9" in line]
    assert len(errors) == 2, "one for each file, although both ranks end with them"
    listed = predict(tmp_path, "two", "--on-bad-data", "list")
    assert "2 rows could not be scored: listed in" in listed.stderr
    lines = (tmp_path / "two" / "_errors.jsonl").read_text().splitlines()
    assert sorted((Path(json.loads(line)["file"]).stem, json.loads(line)["row"]) for line in lines) == [
        ("4", 7),
        ("5", 7),
    ]
