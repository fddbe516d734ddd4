"""Precision, the loss scale and compilation of the network."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from model.rankers import make_batch, make_ranker
from support import Recorder, feed_config, feed_values
from torch.testing import assert_close
from training.runs import assert_same_run, files, interrupt, records

from recap.errors import InputError, Interrupted
from recap.evaluation.run import evaluate_run
from recap.model.objective.objective import Objective
from recap.runs import Run
from recap.runtime import seed_torch, start_runtime
from recap.training.balancing.build import build_balancing
from recap.training.balancing.weighted_losses import MeanOfLosses
from recap.training.loss_scale import LossScale
from recap.training.step import compiled
from recap.training.trainer import train


def run(feed: Path, folder: Path, **training: Any) -> list[float]:
    recorder = Recorder()
    train(feed_config(feed, folder, training=training), recorder)
    return recorder.losses


@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 0.02), ("float16", 0.01)])
def test_mixed_precision_equals_float32_up_to_rounding(
    precision: str, tolerance: float, feed: Path, tmp_path: Path
) -> None:
    exact, rounded = (run(feed, tmp_path / name, precision=name) for name in ("float32", precision))
    assert exact != rounded
    assert_close(rounded, exact, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("precision", ["bf16", "float16"])
def test_weights_and_moments_stay_float32(precision: str, feed: Path, tmp_path: Path) -> None:
    run(feed, tmp_path / "run", precision=precision)
    for name in ("weights.safetensors", "optimizer.safetensors"):
        results = files(tmp_path / "run", 12, name).values()
        assert {tensor.dtype for tensor in results if tensor.is_floating_point()} == {torch.float32}


@pytest.mark.parametrize(("precision", "scaled_steps"), [("bf16", 0), ("float16", 12)])
def test_a_stopped_run_resumes_bit_for_bit(precision: str, scaled_steps: int, feed: Path, tmp_path: Path) -> None:
    run(feed, tmp_path / "whole", precision=precision)
    stopped = feed_config(feed, tmp_path / "stopped", training={"precision": precision})
    with pytest.raises(Interrupted):
        train(stopped, Recorder({5: interrupt}))
    train(stopped, Recorder())
    assert_same_run(tmp_path / "whole", tmp_path / "stopped", 12)
    state = json.loads((Run(tmp_path / "stopped").checkpoint_path(12) / "state.json").read_text())
    assert state["loss_scale"]["good_steps"] == scaled_steps


def test_evaluate_and_training_agree_at_lower_precision(feed: Path, tmp_path: Path) -> None:
    config = feed_config(feed, tmp_path / "run", training={"precision": "bf16"})
    train(config, Recorder())
    results = evaluate_run(config, tmp_path / "run").splits["validation"].metrics
    logged = [record for record in records(tmp_path / "run") if record["split"] == "validation"][-len(results) :]
    assert {record["task"]: record["auc"] for record in logged} == {
        task: metrics["auc"] for task, metrics in results.items()
    }


def test_logits_are_not_rounded_to_bf16(feed: Path) -> None:
    config = feed_config(feed, Path("run"))
    ranker, batch = make_ranker(config).eval(), make_batch(config, rows=8)
    with torch.no_grad(), start_runtime(precision="bf16").autocast():
        logits = torch.stack(ranker.raw_outputs(batch))
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, logits.bfloat16().float())


def test_auto_is_bf16_where_the_hardware_has_it() -> None:
    has_bf16 = torch.cuda.is_available() or torch.cpu.get_capabilities()["avx512_bf16"]
    assert (start_runtime(precision="auto").precision == "bf16") == has_bf16


@pytest.mark.slow
def test_compiled_networks_agree_up_to_rounding(feed: Path) -> None:
    config = feed_config(feed, Path("run"))
    ranker, batch = make_ranker(config).eval(), make_batch(config)  # in training, dropout draws in another order
    results = []
    for raw_outputs in (ranker.raw_outputs, compiled(ranker)):
        outputs = torch.stack(raw_outputs(batch))
        results.append([outputs, *torch.autograd.grad(outputs.sum(), list(ranker.parameters()))])
    for plain, made in zip(*results, strict=True):
        assert_close(made, plain, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_a_failing_compiler_ends_the_run_with_its_reason(feed: Path, tmp_path: Path) -> None:
    values = yaml.safe_dump(feed_values(feed, tmp_path / "run"))
    (tmp_path / "ranker.yaml").write_text(values)
    command = [sys.executable, "-m", "recap", "train", str(tmp_path / "ranker.yaml"), "training.compile=true"]
    environment = os.environ | {"CXX": "false", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    assert "training.compile: torch.compile failed: " in done.stderr
    assert "Traceback" not in done.stderr


def test_compiling_needs_a_compiler(feed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"training.compile: torch.compile needs a C\+\+ compiler"):
        run(feed, tmp_path / "run", compile=True)


# Losses are scaled under float16.


def test_the_loss_scale_cancels_out_bit_for_bit(feed: Path) -> None:
    """For every kind of balancing, since powers of two change no bit."""
    for kind in ("none", "uncertainty", "pcgrad", "grad_norm"):
        config = feed_config(feed, Path("run"), optimizer={"balancing": {"kind": kind}})
        batch = make_batch(config, rows=16)
        results = []
        for scale in (1.0, 2.0**16):
            ranker = make_ranker(config).eval()
            balancing = build_balancing(config, ranker.parameters(), torch.device("cpu"))
            losses = Objective(config)(ranker.raw_outputs(batch), batch)
            balancing.backward(losses, scale)
            balancing.unscale(scale)
            seed_torch(0, 1)
            balancing.finish(losses.losses.detach().double())
            results.append([parameter.grad for parameter in [*ranker.parameters(), *balancing.parameters().values()]])
        assert any(gradient is not None and bool(gradient.any()) for gradient in results[0])
        for plain, scaled in zip(*results, strict=True):
            assert plain is scaled is None or torch.equal(plain, scaled)


def test_a_step_that_overflows_is_repeated_with_half_the_scale(feed: Path, tmp_path: Path) -> None:
    def resumed(name: str, factor: float) -> dict[str, Any]:
        """The final state of a run whose scale was set to `factor` after 6 steps."""
        run(feed, tmp_path / name, precision="float16", num_train_steps=6)
        set_scale(Run(tmp_path / name).checkpoint_path(6), factor)
        run(feed, tmp_path / name, precision="float16")
        state: dict[str, Any] = json.loads((Run(tmp_path / name).checkpoint_path(12) / "state.json").read_text())
        return state

    halved = resumed("halved", 2.0**40)
    factor = halved["loss_scale"]["factor"]
    assert 1 < factor < 2.0**40
    assert (halved["step"], halved["skipped_steps"]) == (12, 0)
    resumed("good", factor)
    assert_same_run(tmp_path / "halved", tmp_path / "good", 12)


def set_scale(checkpoint: Path, factor: float) -> None:
    """Set the loss scale in a checkpoint, as if it had grown to `factor`."""
    state = json.loads((checkpoint / "state.json").read_text())
    state["loss_scale"]["factor"] = factor
    (checkpoint / "state.json").write_text(json.dumps(state))


def test_the_scale_halves_down_to_1_and_doubles_after_many_good_steps() -> None:
    scale = LossScale(enabled=True)
    scale.load_state_dict({"factor": 4.0, "good_steps": 0})
    assert [scale.halve(), scale.halve(), scale.halve(), scale.factor] == [True, True, False, 1.0]
    for _ in range(scale.GROW_AFTER):
        scale.step()
    assert scale.state_dict() == {"factor": 2.0, "good_steps": 0}
    disabled = LossScale(enabled=False)
    assert (disabled.factor, disabled.halve()) == (1.0, False)


def test_a_step_that_overflows_at_every_scale_is_skipped(
    feed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the third step a gradient is infinite, whatever the scale."""
    unscale, steps = MeanOfLosses.unscale, list[float]()

    def spoiled(balancing: MeanOfLosses, scale: float) -> None:
        unscale(balancing, scale)
        steps.append(scale)
        if 3 <= len(steps) <= 3 + 16:
            gradients = [parameter.grad for parameter in balancing.weights if parameter.grad is not None]
            gradients[0].fill_(torch.inf)

    monkeypatch.setattr(MeanOfLosses, "unscale", spoiled)
    run(feed, tmp_path / "run", precision="float16", non_finite={"kind": "skip", "budget": 1})
    assert steps[2 : 3 + 16] == [2.0**power for power in range(16, -1, -1)]
    state = json.loads((Run(tmp_path / "run").checkpoint_path(12) / "state.json").read_text())
    assert (state["skipped_steps"], state["loss_scale"]) == (1, {"factor": 2.0**16, "good_steps": 11})
