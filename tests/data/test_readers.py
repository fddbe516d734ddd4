"""Processes that read: they end with the one they read for, and their death is told."""

import os
import signal
import subprocess
import sys
import time
from collections import deque
from itertools import islice
from pathlib import Path

import psutil
import pytest
from support import feed_config

from recap.config.file.load import dump_config
from recap.config.recap import JobMode
from recap.data.encoding.assets import load_assets
from recap.data.open import open_stream
from recap.errors import RunError

PROCESSES = {"readers": {"kind": "processes", "count": 2}}


def gone(processes: list[psutil.Process]) -> bool:
    """Whether all have ended, a little after they should."""
    return not psutil.wait_procs(processes, timeout=20)[1]


@pytest.mark.slow
def test_a_run_that_is_killed_leaves_no_process_behind(feed: Path, tmp_path: Path) -> None:
    training = {"num_train_steps": 100_000, "checkpoint_every_n": 20, "eval_log_every_n": 100_000}
    source = {"source": {"inputs": str(feed / "train" / "*.parquet")}, "tasks": {"like": {}, "share": {}}}
    config = feed_config(feed, tmp_path / "run", training=training, train_data=source | PROCESSES)
    (tmp_path / "ranker.yaml").write_text(dump_config(config))
    for number in (signal.SIGKILL, signal.SIGINT, signal.SIGTERM):
        command = [sys.executable, "-m", "recap", "train", str(tmp_path / "ranker.yaml")]
        run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
        while not list((tmp_path / "run").glob("checkpoints/*/state.json")):
            assert run.poll() is None, run.communicate()
            time.sleep(0.1)
        children = psutil.Process(run.pid).children(recursive=True)
        assert len(children) >= 2
        # Ctrl-C, and SIGTERM from torchrun, reach the whole group; the run alone answers them.
        os.kill(run.pid, number) if number == signal.SIGKILL else os.killpg(run.pid, number)
        assert run.wait(60) == (-number if number == signal.SIGKILL else 128 + number), run.communicate()
        assert gone(children)
        for checkpoint in (tmp_path / "run" / "checkpoints").glob("*/state.json"):
            checkpoint.unlink()
        run.communicate()
        subprocess.run(["rm", "-r", str(tmp_path / "run")], check=True)


def readers() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]


@pytest.mark.slow
def test_sigterm_that_reaches_all_does_not_end_the_processes_a_run_still_reads_with(feed: Path) -> None:
    source = {"source": {"inputs": str(feed / "train" / "*.parquet")}, "tasks": {"like": {}, "share": {}}}
    config = feed_config(feed, feed / "run", train_data=source | PROCESSES)
    others = readers()
    batches = iter(open_stream(config, load_assets(config.features), JobMode.TRAIN))
    next(batches)
    mine = [process for process in readers() if process not in others]
    assert len(mine) == 2
    script = "import os, sys; [os.kill(int(process), 15) for process in sys.argv[1:]]"
    subprocess.run([sys.executable, "-c", script, *(str(process.pid) for process in mine)], check=True)
    assert len(list(islice(batches, 100))) == 100
    assert all(process.is_running() for process in mine)
    for process in mine:
        process.terminate()
    assert gone(mine)
    batches.close()


def test_a_process_that_dies_is_told_with_what_to_do(feed: Path) -> None:
    source = {"source": {"inputs": str(feed / "train" / "*.parquet")}, "tasks": {"like": {}, "share": {}}}
    config = feed_config(feed, feed / "run", train_data=source | PROCESSES)
    stream = open_stream(config, load_assets(config.features), JobMode.TRAIN)
    batches = iter(stream)
    next(batches)
    for child in readers():
        child.kill()
    with pytest.raises(RunError, match="a process that reads data ended all of a sudden: out of memory"):
        deque(islice(batches, 100), maxlen=0)
