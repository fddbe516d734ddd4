"""Sharded tables train as whole ones: the same losses, metrics and weights on any number of ranks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import Recorder
from training.sharded_tables.cases import ALGORITHMS, assert_equal_runs, run_values, table_values, write_inputs
from training.sharded_tables.zero_collision import run_on_one

from recap.config.file.load import config_of
from recap.distributed import ONE_RANK
from recap.errors import InputError
from recap.training.sharded_tables.library import load_torchrec, table_group
from recap.training.trainer import train

SCRIPT = Path(__file__).with_name("ranks.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The inputs, and a run with whole tables for each algorithm."""
    folder = tmp_path_factory.mktemp("sharded")
    write_inputs(folder)
    for algorithm in ALGORITHMS:
        run_values(table_values(folder / "feed", folder / f"{algorithm}-whole", None, algorithm))
    return folder


@pytest.mark.slow
def test_losses_metrics_and_weights_on_two_ranks_are_those_of_whole_tables(folder: Path) -> None:
    pytest.importorskip("torchrec")
    with table_group(ONE_RANK):
        run_on_one(folder)
    paths = os.pathsep.join([str(SCRIPT.parents[2]), *sys.path])
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, str(SCRIPT), str(folder), "losses", "features", "parts", "zero_collision"],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
    )
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == ["rank 0 of 2 is done", "rank 1 of 2 is done"]


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_one_rank_with_torchrec_trains_as_without(folder: Path, algorithm: str) -> None:
    pytest.importorskip("torchrec")
    run, recorder = folder / f"{algorithm}-one", Recorder()
    train(config_of(table_values(folder / "feed", run, "auto", algorithm)), recorder)
    assert_equal_runs(folder / f"{algorithm}-whole", run)
    assert sum(message.startswith("sharded table ") for message in recorder.messages) == 5


def test_without_torchrec_the_message_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchrec", None)
    with pytest.raises(
        InputError, match=r"'pip install recap\[torchrec\]' .*--requirement torchrec-cpu\.txt' on a CPU"
    ):
        load_torchrec()


def test_a_single_process_has_a_group_while_it_trains() -> None:
    import torch.distributed as dist

    with table_group(ONE_RANK):
        assert dist.get_world_size() == 1
    assert not dist.is_initialized()
