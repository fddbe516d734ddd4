"""Runs whose whole tables have rows for ids that come and go."""

from pathlib import Path
from typing import Any

import pytest
import torch
from support import write_feed
from training.runs import assert_same_run, files
from training.sharded_tables.cases import run_values, table_values

from recap.config.file.load import config_of
from recap.errors import ConfigError
from recap.model.inputs.row_ids import NO_ID
from recap.model.inputs.tables import Tables
from recap.training.trainer import Trainer

IDS = "inputs.embeddings.row_ids.post.ids"
WEIGHT = "inputs.embeddings.tables.post.weight"
POST = {"rows": 40, "evict_every": 3, "parts": 2, "admit_after": 2, "evict_after": 7, "policy": "lfu"}


def values(folder: Path, run: str, steps: int, **post: Any) -> dict[str, Any]:
    """Ids of a column and a history that share a table, moved by Adam."""
    write_feed(folder / "feed", histories=True)
    changes = {"num_train_steps": steps, "checkpoint_every_n": 10, "eval_log_every_n": 10}
    made = table_values(folder / "feed", folder / run, None, "adagrad", **changes)
    made["features"]["discrete"]["post"] = {"zero_collision": POST | post}
    del made["optimizer"]["tables"]
    return made


def test_a_resumed_run_is_the_run(tmp_path: Path) -> None:
    run_values(values(tmp_path, "straight", 20))
    run_values(values(tmp_path, "resumed", 10))
    run_values(values(tmp_path, "resumed", 20))
    assert_same_run(tmp_path / "straight", tmp_path / "resumed", 20)
    assert int((files(tmp_path / "straight", 20, "weights.safetensors")[IDS] != NO_ID).sum()) > 5
    state = {
        name.rpartition("/")[2] for name in files(tmp_path / "straight", 20, "optimizer.safetensors") if IDS in name
    }
    assert state == {"counts", "last_access_iter", "history", "steps", "counters", "occurrences"}


@pytest.mark.parametrize("sparse", [False, True])
def test_a_row_that_passes_to_another_id_starts_anew(tmp_path: Path, sparse: bool) -> None:
    made = values(tmp_path, "run", 12, rows=4, parts=1, evict_every=12, admit_after=1, evict_after=None)
    made["features"]["discrete"]["post"]["zero_collision"].pop("evict_after")
    if sparse:
        rate = {"kind": "constant", "learning_rate": 0.01}
        made["optimizer"]["tables"] = {"algorithm": {"kind": "adam"}, "learning_rate": rate, "sparse": True}
    found: list[Tables] = []

    def prepare(trainer: Trainer) -> None:
        found.append(trainer.model.ranker.inputs.embeddings)
        with torch.no_grad():
            found[0].get_buffer("row_ids.post.ids")[1:] = torch.tensor([11, 12, 13, 14])  # of no value
            found[0].get_parameter("tables.post.weight")[1:] = 5.0

    run_values(made, prepare=prepare)
    ids = found[0].get_buffer("row_ids.post.ids")
    assert not {11, 12, 13, 14} & set(ids.tolist())
    assert found[0].get_parameter("tables.post.weight")[1:].abs().max() < 0.1  # 5 was the vector of others
    moments = files(tmp_path / "run", 12, "optimizer.safetensors")
    assert not moments[f"{WEIGHT}/exp_avg"][1:].any()
    assert moments[f"{WEIGHT}/exp_avg"][0].any()  # all ids of the run shared it


def test_a_frozen_table_keeps_its_ids(tmp_path: Path) -> None:
    made = values(tmp_path, "run", 6)
    made["optimizer"]["frozen"] = ["inputs.embeddings"]
    run_values(made)
    assert bool((files(tmp_path / "run", 6, "weights.safetensors")[IDS] == NO_ID).all())


def test_averages_over_ids_are_refused(tmp_path: Path) -> None:
    made = values(tmp_path, "run", 6)
    made["training"]["ema"] = {"decay": 0.9}
    with pytest.raises(ConfigError) as caught:
        config_of(made)
    assert [f"{problem.path}: {problem.text}" for problem in caught.value.problems] == [
        "features.discrete.post.zero_collision: lets rows pass to other ids, but training.ema would average the "
        "vectors of both; remove training.ema, or use hash: {buckets: 40}"
    ]
