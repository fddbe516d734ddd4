"""A run killed at random moments and at each stage of writing a checkpoint ends like an uninterrupted one."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from processes import run_recap
from support import feed_values, write_feed
from training.runs import assert_same_run

from recap.runs import Run

STEPS = 120
ROWS = 12_000  # 93 steps an epoch, so that the kills at random moments fall into one
KILLING = Path(__file__).with_name("killing.py")
EVERY_STATE = {
    "training": {
        "gradient_accumulation": 2,
        "watch": {"metric": "auc", "split": "validation"},
        "ema": {"decay": 0.9},
        "precision": "bf16",
    },
    "train_data": {"downsample_negatives": {"batch_multiplier": 2, "keep_positives_of": ["like"]}},
}
"""Options that add every kind of state to a run; dropout and shuffling are in `feed_values`."""


def write_config(folder: Path, run: str) -> Path:
    values = feed_values(folder / "feed", folder / run)
    values["training"] |= {
        "num_train_steps": STEPS,
        "checkpoint_every_n": 5,
        "eval_log_every_n": 55,
        "train_log_every_n": 7,
        "checkpoint_max_to_keep": 1,
    }
    for section, changes in EVERY_STATE.items():
        values[section] |= changes
    file = folder / f"{run}.yaml"
    file.write_text(yaml.safe_dump(values))
    return file


def kill(config: Path, *kills: str | int) -> list[str]:
    """Train with these kills; return, for each, what was about to happen."""
    done = subprocess.run([sys.executable, KILLING, config, *map(str, kills)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def finish(config: Path) -> None:
    done = run_recap("train", config)
    assert done.returncode == 0, done.stderr
    assert "next: recap predict" in done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A feed, and the uninterrupted run `whole`."""
    folder = tmp_path_factory.mktemp("kill")
    write_feed(folder / "feed", train_rows=ROWS)
    finish(write_config(folder, "whole"))
    return folder


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_bit_for_bit_equal(folder: Path) -> None:
    config = write_config(folder, "random")
    assert kill(config, "after:5", "after:30", "after:60", "after:65") == [
        f"SIGKILL after:{step}" for step in (5, 30, 60, 65)
    ]
    finish(config)
    assert_same_run(folder / "whole", folder / "random", STEPS)


@pytest.mark.slow
def test_a_run_killed_at_every_stage_of_a_checkpoint_ends_bit_for_bit_equal(folder: Path) -> None:
    config, checkpoints = write_config(folder, "stages"), folder / "stages" / "checkpoints"
    killed = kill(config, "after:10", "half", *range(1, 30))
    assert killed[:2] == ["SIGKILL after:10", "SIGXFSZ half"]
    stages = {re.sub(rf"{checkpoints}|/?step_\d+", "", line) for line in killed[2:]}
    assert stages >= {
        "SIGKILL open .unfinished/config.yaml",
        "SIGKILL open .unfinished/state.json",
        "SIGKILL open .unfinished/manifest.json",
        "SIGKILL sync .unfinished/assets/language-a4ef304ba42a200b.parquet",
        "SIGKILL sync .unfinished/weights.safetensors",
        "SIGKILL sync .unfinished/optimizer.safetensors",
        "SIGKILL sync .unfinished/state.json",
        "SIGKILL sync .unfinished/manifest.json",
        "SIGKILL sync .unfinished/assets",
        "SIGKILL sync .unfinished",
        "SIGKILL os.rename .unfinished",  # everything is written, nothing is renamed
        "SIGKILL sync ",  # the new directory is renamed
        "SIGKILL os.rename ",  # before the old directory is deleted
        "SIGKILL os.rmdir .unfinished",  # while it is deleted
    }
    finish(config)
    assert_same_run(folder / "whole", folder / "stages", STEPS)
    valid = [Run(folder / "stages").checkpoint_path(step) for step in list(Run(folder / "stages").checkpoints)]
    assert sorted(checkpoints.iterdir()) == valid
