"""Rivals: trees that are tuned and fitted on the data of a row, and programs that write predictions."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from boards.test_board import shown, table, write_board
from sklearn.metrics import roc_auc_score
from support import Recorder, feed_config, feed_table

from recap.boards.plan import load_plan
from recap.boards.rivals.predictions import read_predictions
from recap.boards.run import run_board
from recap.errors import RunError

TREES = {"config": "ranker.yaml", "rival": {"kind": "lightgbm", "trials": 2, "max_rounds": 20}}
PROGRAM = """
import argparse, sys, yaml, numpy as np, pyarrow as pa, pyarrow.parquet as pq
parser = argparse.ArgumentParser()
for name in ("--config", "--split", "--output"):
    parser.add_argument(name, required=True)
given = parser.parse_args()
config = yaml.safe_load(open(given.config))
print("reading", given.split)
rows = pq.read_table(config["validation_data"][given.split]["source"]["inputs"][0].replace("*", "part-0"))
n = rows.num_rows
{code}
"""
GOOD = """
age = np.nan_to_num(rows["age"].to_numpy(zero_copy_only=False))
p = age / (1 + age)
pq.write_table(pa.table({"share": 1 - p, "like": p}), given.output)
"""


def write_program(folder: Path, code: str = GOOD) -> dict[str, Any]:
    """A row whose rival is a program with this code."""
    (folder / "rival.py").write_text(PROGRAM.replace("{code}", code))
    return {
        "config": "ranker.yaml",
        "rival": {"kind": "command", "command": [sys.executable, str(folder / "rival.py")]},
    }


def run(file: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The rows of board.json, and why runs failed."""
    plan = load_plan(file, run_commands=True)
    results = run_board(plan, plan.runs, Recorder(), "recap board")
    return json.loads((plan.runs / "board.json").read_text())["rows"], results.failures


@pytest.fixture(scope="module")
def with_trees(feed: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], list[str]]:
    """The folder of a board with trees, its page, and its messages."""
    folder, recorder = tmp_path_factory.mktemp("trees"), Recorder()
    file = write_board(feed, folder, rows={"trees": TREES, "MaskNet": {"config": "ranker.yaml"}}, baseline="trees")
    return folder, shown(file, recorder), recorder.messages


def test_trees_are_evaluated_on_the_same_rows_as_the_model(
    feed: Path, with_trees: tuple[Path, list[str], list[str]]
) -> None:
    folder, lines, messages = with_trees
    rows = json.loads((folder / "runs" / "board.json").read_text())["rows"]
    labels = pq.read_table(feed / "validation" / "part-0.parquet")
    predictions = pq.read_table(folder / "runs" / "trees-1" / "predictions.parquet")
    for task in ("like", "share"):
        expected = roc_auc_score(labels[task].to_numpy(), predictions[task].to_numpy())
        assert rows["trees"]["runs"]["1"]["metrics"][task]["auc"] == pytest.approx(expected)
    assert expected > 0.6
    assert rows["MaskNet"]["differences"]["auc"].keys() == {"like", "share", "mean"}
    assert rows["trees"]["rival"] == "lightgbm"
    assert len([text for text in messages if text.startswith("like: 2 trials in ")]) == 1  # for both seeds
    assert any(line.startswith("trees: tuned once for all seeds, with 2 trials for each task, ") for line in lines)


def test_finished_trees_are_not_fitted_again_unless_their_data_change(
    feed: Path, with_trees: tuple[Path, list[str], list[str]]
) -> None:
    folder, before, _ = with_trees
    again = Recorder()
    assert shown(folder / "board.yaml", again) == before
    assert not [text for text in again.messages if "trial" in text]
    fewer = {**TREES, "rival": {**TREES["rival"], "columns": ["age", "hour"]}}
    rows, failed = run(write_board(feed, folder, rows={"trees": fewer}))
    assert failed["trees, seeds 0, 1"].endswith(
        "holds predictions of other data or settings; rename the row, or delete its folder(s)"
    )
    rows, failed = run(write_board(feed, folder, rows={"fewer columns": fewer}, seeds=[0]))
    assert not failed
    assert rows["fewer columns"]["runs"]["0"]["metrics"]["like"]["auc"] > 0.5


def test_settings_are_chosen_on_the_latest_training_rows(feed: Path, tmp_path: Path) -> None:
    """The labels of the last fifth are the opposite of the others, and the files are in the reverse order of time."""
    table_of_rows = feed_table(400, seed=3)
    late = np.arange(400) >= 320
    labels = np.where(late, 1 - table_of_rows["like"].to_numpy(), table_of_rows["like"].to_numpy())
    table_of_rows = table_of_rows.set_column(table_of_rows.column_names.index("like"), "like", [labels.astype(np.int8)])
    (tmp_path / "train").mkdir()
    for number, start in enumerate((200, 0)):
        pq.write_table(table_of_rows.slice(start, 200), tmp_path / "train" / f"{number}.parquet")
    inputs = f"train_data.source.inputs={tmp_path}/train/*.parquet"
    tuned = {}
    for name, overrides in {"by time": [], "by file": ["features.timestamp=null"]}.items():
        rival = {"kind": "lightgbm", "trials": 1, "max_rounds": 5}
        rows = {name: {"config": "ranker.yaml", "rival": rival, "overrides": [inputs, *overrides]}}
        _, failed = run(write_board(feed, tmp_path, rows=rows, seeds=[0], tasks=["like"], floors={}))
        assert not failed
        file = tmp_path / "runs" / "records" / f"{name.replace(' ', '_')}.tuned.json"
        tuned[name] = json.loads(file.read_text())["tasks"]["like"]["value"]
    assert tuned["by time"] < 0.5 < tuned["by file"]


def test_settings_of_a_rare_label_are_chosen_on_spread_rows(feed: Path, tmp_path: Path) -> None:
    """All shares are in the first half of the time."""
    rows = feed_table(400, seed=3)
    labels = np.where(np.arange(400) < 200, rows["share"].to_numpy(), 0).astype(np.int8)
    pq.write_table(rows.set_column(rows.column_names.index("share"), "share", [labels]), tmp_path / "train.parquet")
    rival = {"kind": "lightgbm", "trials": 1, "max_rounds": 20}
    overrides = [f"train_data.source.inputs={tmp_path}/train.parquet"]
    trees = {"trees": {"config": "ranker.yaml", "rival": rival, "overrides": overrides}}
    _, failed = run(write_board(feed, tmp_path, rows=trees, seeds=[0], tasks=["share"], floors={}))
    assert not failed
    tuned = json.loads((tmp_path / "runs" / "records" / "trees.tuned.json").read_text())["tasks"]["share"]
    assert 0.5 < tuned["value"] < 1


def test_trees_need_both_labels(feed: Path, tmp_path: Path) -> None:
    table_of_rows = feed_table(50)
    zeros = [np.zeros(50, np.int8)]
    table_of_rows = table_of_rows.set_column(table_of_rows.column_names.index("share"), "share", zeros)
    pq.write_table(table_of_rows, tmp_path / "train.parquet")
    rows = {"trees": {**TREES, "overrides": [f"train_data.source.inputs={tmp_path}/train.parquet"]}}
    _, failed = run(write_board(feed, tmp_path, rows=rows, seeds=[0]))
    assert failed == {"trees, seed 0": "share: the training rows have one label only, from which trees learn nothing"}


def test_a_program_gets_the_configuration_and_its_predictions_are_evaluated(feed: Path, tmp_path: Path) -> None:
    file = write_board(feed, tmp_path, rows={"age alone": write_program(tmp_path)}, seeds=[7])
    lines = shown(file, Recorder(), run_commands=True)
    rows = pq.read_table(feed / "validation" / "part-0.parquet")
    age = np.nan_to_num(rows["age"].to_numpy(zero_copy_only=False))
    expected = roc_auc_score(rows["like"].to_numpy(), age)
    assert table(lines, "AUC")["age alone"][1] == f"{expected:.4f}"
    run_folder = tmp_path / "runs" / "age_alone-7"
    assert (run_folder / "log.txt").read_text() == "reading validation\n"
    assert "seed: 7" in (run_folder / "config.yaml").read_text()
    (tmp_path / "rival.py").write_text("raise SystemExit(1)")  # it is not run again
    assert shown(file, Recorder(), run_commands=True) == lines


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "sys.exit('out of luck')",
            r"failed with exit code 1; the end of .*log.txt:\n  reading validation\n  out of luck",
        ),
        ("pass", "did not write the file of --output"),
        (
            "pq.write_table(rows.set_column(rows.column_names.index('like'), 'like', [np.full(n, 2)]), given.output)",
            "predictions.parquet.*: column 'like'",
        ),
    ],
)
def test_a_program_that_fails_fails_its_row(feed: Path, tmp_path: Path, code: str, message: str) -> None:
    _, failed = run(write_board(feed, tmp_path, rows={"program": write_program(tmp_path, code)}, seeds=[0]))
    assert re.search(message, failed["program, seed 0"])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (None, "cannot be read as Parquet"),
        ({"like": [0.5]}, "has 1 row, and validation has 2; write one for each row, in their order"),
        ({"like": [0.5, 0.5]}, "column 'share' is missing. Known: like."),
        ({"like": [0.5, 2.0], "share": [0, 1]}, "column 'like', row 1: expected a probability from 0 to 1, found 2.0"),
        ({"like": [0, 1], "share": [0.5, None]}, "column 'share', row 1: expected a probability .*, found nan"),
        ({"like": [0, 1], "share": ["a", "b"]}, "column 'share' has type string; expected a number for each row"),
    ],
)
def test_predictions_are_checked(
    feed: Path, tmp_path: Path, columns: dict[str, list[Any]] | None, message: str
) -> None:
    file = tmp_path / "predictions.parquet"
    if columns is None:
        file.write_text("like,share")
    else:
        pq.write_table(pa.table(columns), file)
    with pytest.raises(RunError, match=message):
        read_predictions(file, feed_config(feed, tmp_path), ["like", "share"], "validation", 2)


def test_a_program_that_does_not_exist_fails_its_row(feed: Path, tmp_path: Path) -> None:
    rows = {"program": {"config": "ranker.yaml", "rival": {"kind": "command", "command": ["no-such-program"]}}}
    _, failed = run(write_board(feed, tmp_path, rows=rows, seeds=[0]))
    assert failed == {
        "program, seed 0": "no-such-program: cannot be started (No such file or directory); check rival.command"
    }
