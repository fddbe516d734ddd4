"""Checks of zero-collision hashes for `ranks.py`: which ids have rows does not depend on the ranks."""

from pathlib import Path
from typing import Any

import torch
from training.runs import assert_same_run, files
from training.sharded_tables.cases import assert_equal_runs, run_values, table_values

from recap.distributed import ONE_RANK, Ranks

STEPS = 20
MIDDLE = 10
"""A step between two rounds of each table."""


def values(folder: Path, run: str, steps: int, sharding: str | None = "row_wise") -> dict[str, Any]:
    """Ids that compete for rows, of a column and a history that share a table, and of a column alone."""
    changes = {"num_train_steps": steps, "checkpoint_every_n": 10, "eval_log_every_n": 10}
    made = table_values(folder / "feed", folder / run, sharding, "rowwise_adagrad", **changes)
    made["features"]["discrete"] |= {
        "post": {"zero_collision": {"rows": 40, "evict_every": 3, "parts": 3, "admit_after": 3}},
        "user_id": {"zero_collision": {"rows": 60, "evict_every": 4, "policy": "lfu", "parts": 1, "evict_after": 7}},
    }
    return made


def check_zero_collision(folder: Path, ranks: Ranks) -> None:
    """Two ranks train as one does, resume exactly, and go on from one; TorchRec may divide the vectors in any way."""
    run_values(values(folder, "ids-two", STEPS), ranks)
    run_values(values(folder, "ids-resumed", MIDDLE, "table_wise"), ranks)
    run_values(values(folder, "ids-resumed", STEPS, "table_wise"), ranks)
    run_values(values(folder, "ids-grown", STEPS), ranks)
    run_values(values(folder, "ids-straight", STEPS, "table_wise"), ranks)
    run_values(values(folder, "ids-whole", STEPS, None), ranks)
    if ranks.is_first:
        assert_same_run(folder / "ids-straight", folder / "ids-resumed", STEPS)
        for run in ("two", "resumed", "grown", "whole"):
            assert_equal_runs(folder / "ids-one", folder / f"ids-{run}", STEPS)
            assert_same_ids(folder / "ids-one", folder / f"ids-{run}")


def run_on_one(folder: Path) -> None:
    """The run with which those of several ranks are compared, and one that they go on with."""
    run_values(values(folder, "ids-one", STEPS), ONE_RANK)
    run_values(values(folder, "ids-grown", MIDDLE), ONE_RANK)


def assert_same_ids(left: Path, right: Path) -> None:
    """The same rows have the same ids, counts and history."""
    for file in ("weights.safetensors", "optimizer.safetensors"):
        first, second = files(left, STEPS, file), files(right, STEPS, file)
        names = [name for name in first if "row_ids" in name]
        assert len(names) == (2 if file == "weights.safetensors" else 4 + 4 + 2)  # metadata, history and steps, sketch
        assert all(torch.equal(first[name], second[name]) for name in names), names
