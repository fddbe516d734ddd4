"""Sharded tables train as whole ones: the same losses, metrics and weights on any number of ranks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import Recorder
from training.sharded_tables.cases import (
    ALGORITHMS,
    SHORT,
    STEPS,
    assert_equal_runs,
    run_values,
    table_values,
    write_inputs,
)
from training.sharded_tables.zero_collision import run_on_one

from recap.config.file.load import config_of
from recap.distributed import ONE_RANK
from recap.errors import InputError
from recap.model.inputs.tables import TableSpec
from recap.training.sharded_tables.loading import load_torchrec, table_group
from recap.training.sharded_tables.plan import MAX_SAID, TablePlan, describe_plan
from recap.training.trainer import train


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The inputs, and a run with whole tables for each algorithm."""
    folder = tmp_path_factory.mktemp("sharded")
    write_inputs(folder)
    for algorithm in ALGORITHMS:
        steps = STEPS if algorithm == "rowwise_adagrad" else SHORT
        run_values(table_values(folder / "feed", folder / f"{algorithm}-whole", None, algorithm, steps))
    return folder


def run_script(script: Path, folder: Path) -> None:
    """Run a script, whose ranks write errors to its stderr."""
    paths = os.pathsep.join([str(script.parents[2]), *sys.path])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    line = [sys.executable, str(script), str(folder)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_losses_metrics_and_weights_on_two_ranks_are_those_of_whole_tables(folder: Path) -> None:
    pytest.importorskip("torchrec")
    with table_group(ONE_RANK):
        run_on_one(folder)
    run_script(Path(__file__).with_name("ranks.py"), folder)


@pytest.mark.slow
def test_one_rank_with_torchrec_trains_as_without(folder: Path) -> None:
    pytest.importorskip("torchrec")
    run, recorder = folder / "sgd-one", Recorder()
    train(config_of(table_values(folder / "feed", run, "auto", "sgd", SHORT)), recorder)
    assert_equal_runs(folder / "sgd-whole", run, SHORT)
    assert sum(message.startswith("sharded table ") for message in recorder.messages) == 5


def test_without_torchrec_the_message_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchrec", None)
    with pytest.raises(
        InputError, match=r"pip install '.*\[torchrec\]' beside a GPU, .*--requirement torchrec-cpu\.txt in"
    ):
        load_torchrec()


def test_the_plan_of_many_tables_on_many_ranks_is_a_few_lines() -> None:
    """The largest tables come first, and the last line has the sums of all."""
    plans = [
        TablePlan(TableSpec(f"table {rows}", rows << 10, 8, ("feature",)), kind, (rows << 15,) * 16)
        for rows, kind in zip(range(1, 101), ["row_wise"] * 60 + ["table_wise"] * 40, strict=True)
    ]
    lines = list(describe_plan(plans))
    assert len(lines) == MAX_SAID + 1
    assert lines[0] == "sharded table table 100: 102,400 × 8, table_wise, MiB on each of 16 ranks: 3.1 to 3.1"
    assert lines[-1] == (
        "all 100 sharded tables: 60 row_wise, 40 table_wise, MiB on each of 16 ranks: 157.8 to 157.8; above are the 8 "
        "largest"
    )
    assert list(describe_plan(plans[:1])) == [
        "sharded table table 1: 1,024 × 8, row_wise, KiB on each of 16 ranks: 32.0 to 32.0"
    ]


def test_a_single_process_has_a_group_while_it_trains() -> None:
    import torch.distributed as dist

    with table_group(ONE_RANK):
        assert dist.get_world_size() == 1
    assert not dist.is_initialized()
