"""The moving average of weights: its formula, what is evaluated and saved, and resuming."""

from pathlib import Path
from typing import Any

import pytest
import torch
from model.rankers import make_config, make_ranker
from support import Recorder, at_half, feed_config, feed_values
from torch.testing import assert_close
from training.runs import assert_same_run, files, interrupt, records

from recap.config.file.load import config_of
from recap.config.recap import RecapConfig
from recap.config.training import EmaConfig
from recap.errors import CheckpointError, ConfigError, Interrupted
from recap.evaluation.run import evaluate_run
from recap.model.directory import open_model
from recap.runs import Run, find_model_directory
from recap.training.average import WeightAverage
from recap.training.trainer import train

EMA = {"decay": 0.9}
WEIGHTS, RAW = "weights.safetensors", "raw_weights.safetensors"


def averaged(feed: Path, run: Path, ema: dict[str, Any] | None = EMA, **training: Any) -> RecapConfig:
    return feed_config(feed, run, training={"num_train_steps": 12, "checkpoint_every_n": 4, **training, "ema": ema})


def slow_averages(weights: list[torch.Tensor], start: torch.Tensor, decay: float) -> torch.Tensor:
    """The averages by the formula, from the weights after each step."""
    average = start.double()
    for step, weight in enumerate(weights, start=1):
        share = min(decay, (1 + step) / (10 + step))
        average = share * average + (1 - share) * weight.double()
    return average.float()


@pytest.mark.parametrize("decay", [0.5, 0.999])
def test_the_average_follows_its_formula_and_leaves_the_weights(decay: float) -> None:
    ranker = make_ranker(make_config("mlp-share_all"))
    average = WeightAverage(EmaConfig(decay=decay), ranker)
    parameters = dict(ranker.named_parameters())
    start = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    seen: dict[str, list[torch.Tensor]] = {name: [] for name in parameters}
    for step in range(1, 13):
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.add_(torch.randn_like(parameter))
                seen[name].append(parameter.clone())
        average.update(step)
    with average.applied():
        for name, parameter in ranker.named_parameters():
            assert_close(parameter.detach(), slow_averages(seen[name], start[name], decay))
    assert all(torch.equal(parameter, seen[name][-1]) for name, parameter in ranker.named_parameters())


def test_a_failure_while_averages_are_applied_restores_the_weights() -> None:
    ranker = make_ranker(make_config("mlp-share_all"))
    average = WeightAverage(EmaConfig(), ranker)
    with torch.no_grad():
        next(ranker.parameters()).add_(1.0)
    before = next(ranker.parameters()).detach().clone()

    def fail() -> None:
        with average.applied():
            assert not torch.equal(next(ranker.parameters()), before)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert torch.equal(next(ranker.parameters()), before)


def test_averaging_does_not_change_training(feed: Path, tmp_path: Path) -> None:
    """The raw weights saved at every step equal those of a run without an average, and give the average."""
    plain = at_half(averaged(feed, tmp_path / "plain", None, checkpoint_every_n=1))
    train(plain, Recorder())
    train(at_half(averaged(feed, tmp_path / "ema", checkpoint_every_n=1, eval_log_every_n=3)), Recorder())
    last = files(tmp_path / "ema", 12, WEIGHTS)
    raw = [files(tmp_path / "ema", step, RAW) for step in range(1, 13)]
    for step, weights in enumerate(raw, start=1):
        other = files(tmp_path / "plain", step, WEIGHTS)
        assert all(torch.equal(weights[name], other[name]) for name in weights)
    fresh = fresh_weights(plain)
    for name in raw[0]:
        assert_close(last[name], slow_averages([weights[name] for weights in raw], fresh[name], 0.9))
    buffers = last.keys() - raw[0].keys()
    assert any("running_mean" in name for name in buffers)
    end = files(tmp_path / "plain", 12, WEIGHTS)
    assert all(torch.equal(last[name], end[name]) for name in buffers)
    assert not (Run(tmp_path / "plain").checkpoint_path(12) / RAW).exists()


def fresh_weights(config: RecapConfig) -> dict[str, torch.Tensor]:
    from recap.data.encoding.assets import load_assets
    from recap.model.directory import build_ranker
    from recap.runtime import seed_torch

    seed_torch(config.training.seed, 0)
    return build_ranker(config, load_assets(config.features)).state_dict()


def test_training_evaluates_the_weights_that_the_checkpoint_holds(feed: Path, tmp_path: Path) -> None:
    config = averaged(feed, tmp_path / "run", eval_log_every_n=6)
    train(config, Recorder())
    logged = {
        record["task"]: record["auc"]
        for record in records(tmp_path / "run")
        if record["step"] == 12 and "auc" in record
    }
    results = evaluate_run(config, tmp_path / "run").splits["validation"].metrics
    assert logged == {task: metrics["auc"] for task, metrics in results.items()}
    train(averaged(feed, tmp_path / "plain", None, eval_log_every_n=6), Recorder())
    plain = [record for record in records(tmp_path / "plain") if record["step"] == 12 and "auc" in record]
    assert [record["auc"] for record in plain] != list(logged.values())


@pytest.mark.parametrize("stops", [[1], [4, 5], [3, 7, 11]])
def test_a_stopped_run_resumes_its_averages_bit_for_bit(feed: Path, tmp_path: Path, stops: list[int]) -> None:
    whole, stopped = (averaged(feed, tmp_path / name, gradient_accumulation=2) for name in ("whole", "stopped"))
    train(whole, Recorder())
    for step in stops:
        with pytest.raises(Interrupted):
            train(stopped, Recorder({step: interrupt}))
    train(stopped, Recorder())
    assert_same_run(tmp_path / "whole", tmp_path / "stopped", 12)
    first, second = (files(tmp_path / run, 12, RAW) for run in ("whole", "stopped"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_crashed_run_resumes_its_averages_bit_for_bit(feed: Path, tmp_path: Path) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(averaged(feed, tmp_path / "broken"), Recorder({7: fail}))
    assert list(Run(tmp_path / "broken").checkpoints) == [4]
    train(averaged(feed, tmp_path / "broken"), Recorder())
    train(averaged(feed, tmp_path / "whole"), Recorder())
    assert_same_run(tmp_path / "whole", tmp_path / "broken", 12)
    assert (Run(tmp_path / "whole").checkpoint_path(12) / RAW).read_bytes() == (
        Run(tmp_path / "broken").checkpoint_path(12) / RAW
    ).read_bytes()


def test_damaged_raw_weights_are_refused_by_name(feed: Path, tmp_path: Path) -> None:
    train(averaged(feed, tmp_path / "run", checkpoint_max_to_keep=1), Recorder())
    file = Run(tmp_path / "run").checkpoint_path(12) / RAW
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"raw_weights.safetensors: damaged"):
        open_model(find_model_directory(tmp_path / "run"))


def test_a_warm_start_takes_the_averages_of_the_earlier_run(feed: Path, tmp_path: Path) -> None:
    train(averaged(feed, tmp_path / "first"), Recorder())
    still = {"kind": "constant", "learning_rate": 0.0}
    config = feed_config(
        feed,
        tmp_path / "second",
        training={"initial_checkpoint_dir": str(tmp_path / "first"), "num_train_steps": 2, "ema": EMA},
        optimizer={"backbone": still, "towers": {"default": still}},
    )
    train(config, Recorder())
    before = files(tmp_path / "first", 12, WEIGHTS)
    for name in (WEIGHTS, RAW):
        results = files(tmp_path / "second", 2, name)
        assert all(torch.equal(results[key], before[key]) for key in files(tmp_path / "second", 2, RAW))


def test_a_run_does_not_resume_with_another_average(feed: Path, tmp_path: Path) -> None:
    train(averaged(feed, tmp_path / "run"), Recorder())
    for ema in (None, {"decay": 0.99}):
        with pytest.raises(CheckpointError, match=r"need a new run:\n  training.ema.decay: 0.9 → "):
            train(averaged(feed, tmp_path / "run", ema), Recorder())


@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_a_decay_of_0_or_1_is_refused(tmp_path: Path, decay: float) -> None:
    values = feed_values(tmp_path, tmp_path / "run")
    values["training"]["ema"] = {"decay": decay}
    with pytest.raises(ConfigError, match=r"training.ema.decay: must be (above 0|below 1), found"):
        config_of(values)
