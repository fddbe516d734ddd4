"""Norms of weights in the training record."""

from pathlib import Path

import pytest
from support import Recorder, feed_config
from training.runs import assert_same_run, files, interrupt, records

from recap.errors import Interrupted
from recap.training.trainer import train

TABLES = "inputs.embeddings.tables."


def test_training_records_have_the_norms_of_the_saved_weights(feed: Path, tmp_path: Path) -> None:
    training = {"log_norms": True, "num_train_steps": 4, "train_log_every_n": 2, "checkpoint_every_n": 2}
    config = feed_config(feed, tmp_path / "run", training=training)
    train(config, Recorder())
    lines = [record for record in records(tmp_path / "run") if record["split"] == "train"]
    assert [line["step"] for line in lines] == [2, 4]
    for line in lines:
        norms = {name.removeprefix("norm/"): value for name, value in line.items() if name.startswith("norm/")}
        assert norms.keys() == {"inputs", "sharing", "towers", f"{TABLES}hour", f"{TABLES}language"}
        moments = {key.rpartition("/")[0] for key in files(tmp_path / "run", line["step"], "optimizer.safetensors")}
        weights = files(tmp_path / "run", line["step"], "weights.safetensors")
        for path, norm in norms.items():
            below = [weights[name].double() for name in moments if name.startswith(f"{path}.")]
            assert norm == pytest.approx(sum(float(weight.square().sum()) for weight in below) ** 0.5, rel=1e-5), path
    assert lines[0]["norm/towers"] != lines[1]["norm/towers"]


def test_norms_are_off_by_default_and_do_not_change_training(feed: Path, tmp_path: Path) -> None:
    for name, asked in (("with", True), ("without", False)):
        train(feed_config(feed, tmp_path / name, training={"log_norms": asked, "num_train_steps": 3}), Recorder())
    assert not any(key.startswith("norm/") for record in records(tmp_path / "without") for key in record)
    first, second = (files(tmp_path / name, 3, "weights.safetensors") for name in ("with", "without"))
    assert all((first[name] == second[name]).all() for name in first)


def test_norms_resume_bit_for_bit_and_may_be_switched_on_resume(feed: Path, tmp_path: Path) -> None:
    whole, stopped = (
        feed_config(feed, tmp_path / name, training={"log_norms": True, "ema": {}}) for name in ("whole", "stopped")
    )
    train(whole, Recorder())
    with pytest.raises(Interrupted):
        train(stopped, Recorder({7: interrupt}))
    train(stopped, Recorder())
    assert_same_run(tmp_path / "whole", tmp_path / "stopped", 12)
    more = feed_config(feed, tmp_path / "stopped", training={"log_norms": False, "ema": {}, "num_train_steps": 13})
    assert train(more, Recorder()).trained
