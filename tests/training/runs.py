"""Helpers that spoil the data of runs, stop runs and compare them."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file

from recap.runs import Run

TIMED = ("examples_per_second", "data_wait")
"""Fields of a record that differ between any two runs."""


def with_overflow(feed: Path, name: str, row: int) -> Path:
    """Adds the column `weight` if it is missing, and makes row `row` of file `name` a heavy positive."""
    for file in (feed / "train").glob("*.parquet"):
        table = pq.read_table(file)
        columns = {column: table.column(column).to_numpy().copy() for column in ("like", "share")}
        weights = table.column("weight").to_numpy().copy() if "weight" in table.column_names else np.ones(len(table))
        if file.name == name:
            weights[row], columns["like"][row], columns["share"][row] = 3e38, 1, 1
        rest = table.drop_columns([name for name in (*columns, "weight") if name in table.column_names])
        for column, values in {**columns, "weight": weights}.items():
            rest = rest.append_column(column, pa.array(values))
        pq.write_table(rest, file, row_group_size=70)
    return feed


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def files(run: Path, step: int, name: str) -> dict[str, torch.Tensor]:
    return load_file(Run(run).checkpoint_path(step) / name)


def assert_same_run(left: Path, right: Path, step: int) -> None:
    """Assert that weights, moments, state and records (except speed) are the same bit for bit."""
    names = [{file.name for file in Run(run).checkpoint_path(step).glob("*.safetensors")} for run in (left, right)]
    assert names[0] == names[1]
    for name in names[0]:
        first, second = files(left, step, name), files(right, step, name)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first), name
    for name in ("state.json", "statistics.json"):
        texts = [(Run(run).checkpoint_path(step) / name).read_text() for run in (left, right)]
        assert texts[0] == texts[1], name
    assert records(left) == records(right)


def records(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMED} for line in lines]
