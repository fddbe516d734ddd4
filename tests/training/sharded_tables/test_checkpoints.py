"""Checkpoints of sharded tables: for any ranks, also after ranks were killed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from distributed.test_ranks import ALL
from support import write_feed
from training.runs import files
from training.sharded_tables.cases import assert_equal_runs, run_values
from training.sharded_tables.resharding import values

from recap.model.directory import open_model
from recap.runs import Run
from recap.training.sharded_tables.consolidate import consolidate

pytest.importorskip("torchrec")
SCRIPT = Path(__file__).with_name("resharding.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resharding")
    write_feed(folder / "feed", histories=True)
    return folder


def check(folder: Path, ranks: int, *checks: str, restarts: int = 0) -> None:
    """Run checks of `resharding.py` on several ranks, which torchrun starts again after a failure."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--max-restarts={restarts}"]
    paths = os.pathsep.join([str(SCRIPT.parents[2]), *sys.path])
    done = subprocess.run(
        [*launch, "--nproc-per-node", str(ranks), str(SCRIPT), str(folder), *checks],
        capture_output=True,
        text=True,
        timeout=300,
        env=ALL | {"PYTHONPATH": paths},
    )
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == [f"rank {rank} of {ranks} is done" for rank in range(ranks)]


@pytest.mark.slow
def test_runs_resume_on_one_two_and_four_ranks_with_whole_and_sharded_tables(folder: Path) -> None:
    run_values(values(folder, "one", None, 40))
    run_values(values(folder, "changing", None, 10))
    check(folder, 2, "any_division_is_written_and_read", "two_go_on_from_one", "a_resume_is_exact")
    check(folder, 4, "any_division_is_written_and_read", "four_go_on_from_two")
    of_four = Run(folder / "changing").checkpoint_path(30)
    consolidate(of_four, folder / "consolidated")
    run_values(values(folder, "changing", None, 40))
    assert_equal_runs(folder / "one", folder / "changing", 40)

    weights = open_model(folder / "consolidated").ranker.state_dict()
    plain = files(folder / "one", 30, "weights.safetensors")
    assert weights.keys() == plain.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, plain[name], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_killed_ranks_are_restarted_and_end_bit_for_bit_as_if_nothing_had_happened(folder: Path) -> None:
    check(folder, 2, "straight", "killed_ranks_resume", restarts=2)
