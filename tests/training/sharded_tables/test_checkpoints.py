"""Checkpoints of sharded tables: for any ranks, also after ranks were killed."""

from pathlib import Path

import pytest
import torch
from support import write_feed
from training.runs import files
from training.sharded_tables.cases import assert_equal_runs, run_values
from training.sharded_tables.resharding import END, values
from training.sharded_tables.test_sharded_tables import run_script

from recap.model.directory import open_model
from recap.runs import Run
from recap.training.sharded_tables.consolidate import consolidate

pytest.importorskip("torchrec")


@pytest.mark.slow
def test_runs_resume_on_any_ranks_with_whole_and_sharded_tables_also_when_ranks_were_killed(tmp_path: Path) -> None:
    write_feed(tmp_path / "feed", histories=True)
    run_values(values(tmp_path, "one", None, END))
    run_values(values(tmp_path, "changing", None, 4))
    run_script(Path(__file__).with_name("resharding.py"), tmp_path)
    consolidate(Run(tmp_path / "changing").checkpoint_path(12), tmp_path / "consolidated")
    run_values(values(tmp_path, "changing", None, END))
    assert_equal_runs(tmp_path / "one", tmp_path / "changing", END)

    weights = open_model(tmp_path / "consolidated").ranker.state_dict()
    plain = files(tmp_path / "one", 12, "weights.safetensors")
    assert weights.keys() == plain.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, plain[name], rtol=1e-3, atol=1e-4)
