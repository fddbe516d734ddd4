"""Reading processes end with their parent, and their death is reported."""

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
    """Whether all have ended within 20 seconds."""
    return not psutil.wait_procs(processes, timeout=20)[1]


@pytest.mark.slow
def test_a_killed_run_leaves_no_process_behind(feed: Path, tmp_path: Path) -> None:
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
        # Ctrl-C, and SIGTERM from torchrun, reach the whole group; only the run handles them.
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
def test_sigterm_from_another_process_does_not_end_readers(feed: Path) -> None:
    source = {"source": {"inputs": str(feed / "train" / "*.parquet")}, "tasks": {"like": {}, "share": {}}}
    config = feed_config(feed, feed / "run", train_data=source | PROCESSES)
    others = readers()
    batches = iter(open_stream(config, load_assets(config.features), JobMode.TRAIN))
    next(batches)
    own = [process for process in readers() if process not in others]
    assert len(own) == 2
    script = "import os, sys; [os.kill(int(process), 15) for process in sys.argv[1:]]"
    subprocess.run([sys.executable, "-c", script, *(str(process.pid) for process in own)], check=True)
    assert len(list(islice(batches, 100))) == 100
    assert all(process.is_running() for process in own)
    for process in own:
        process.terminate()
    assert gone(own)
    batches.close()


def test_a_process_that_dies_is_reported_with_advice(feed: Path) -> None:
    source = {"source": {"inputs": str(feed / "train" / "*.parquet")}, "tasks": {"like": {}, "share": {}}}
    config = feed_config(feed, feed / "run", train_data=source | PROCESSES)
    stream = open_stream(config, load_assets(config.features), JobMode.TRAIN)
    batches = iter(stream)
    next(batches)
    for child in readers():
        child.kill()
    with pytest.raises(RunError, match="a reader process died, perhaps out of memory"):
        deque(islice(batches, 100), maxlen=0)
