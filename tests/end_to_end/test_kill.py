"""SIGKILL at random moments and at each stage of writing a checkpoint: the end is that of an uninterrupted run."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from support import feed_values, write_feed
from training.test_trainer import assert_same_run

from recap.model.saved import checkpoint_steps

STEPS = 120
ROWS = 6000  # 94 steps an epoch, so that the kills of a test fall into one
TRAIN = [sys.executable, "-m", "recap", "train"]
KILL_AT_SYNC = """
import os, signal, sys
from recap.model import directory

left, sync = int(sys.argv.pop(1)), directory._sync

def counted(path):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    sync(path)

directory._sync = counted
from recap.cli.main import main
main()
"""


def write_config(folder: Path, run: str) -> Path:
    values = feed_values(folder / "feed", folder / run)
    values["training"] |= {
        "num_train_steps": STEPS,
        "checkpoint_every_n": 5,
        "eval_log_every_n": 50,
        "train_log_every_n": 7,
        "checkpoint_max_to_keep": 2,
        "gradient_accumulation": 2,
    }
    file = folder / f"{run}.yaml"
    file.write_text(yaml.safe_dump(values))
    return file


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A feed, and the run `whole` that nothing interrupted."""
    folder = tmp_path_factory.mktemp("kill")
    write_feed(folder / "feed", train_rows=ROWS)
    subprocess.run([*TRAIN, write_config(folder, "whole")], check=True, capture_output=True)
    return folder


def finish(config: Path) -> None:
    done = subprocess.run([*TRAIN, config], check=True, capture_output=True, text=True)
    assert "finished" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_killed_at_random_moments_it_ends_in_the_very_same_weights(folder: Path, seed: int) -> None:
    chance = random.Random(seed)
    run, config = folder / f"random{seed}", write_config(folder, f"random{seed}")
    killed_after: list[int] = []
    for earliest in (5, 30, 60):  # all in the first epoch
        process = subprocess.Popen([*TRAIN, config], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        while process.poll() is None and max(checkpoint_steps(run), default=0) < earliest:
            time.sleep(0.002)
        time.sleep(chance.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if process.returncode == -signal.SIGKILL:
            killed_after.append(max(checkpoint_steps(run)))
    assert len(killed_after) >= 2, "the run was too quick to be killed twice"
    finish(config)
    assert_same_run(folder / "whole", run, STEPS)


@pytest.mark.slow
def test_killed_at_each_stage_of_a_checkpoint_it_ends_in_the_very_same_weights(folder: Path) -> None:
    run, config = folder / "stages", write_config(folder, "stages")
    # A checkpoint syncs 5 files, the manifest, 2 folders, and after the rename the parent: 9 in all.
    for sync, steps in ((1, []), (6, []), (9, [5]), (10, [5, 10]), (17, [10, 15])):
        script = [sys.executable, "-c", KILL_AT_SYNC, str(sync), "train", str(config)]
        assert subprocess.run(script, capture_output=True).returncode == -signal.SIGKILL
        assert checkpoint_steps(run) == steps
    finish(config)
    assert_same_run(folder / "whole", run, STEPS)
    assert not list((run / "checkpoints").glob("*.unfinished"))
