"""bf16 copies of weights: the numbers are those of autocast bit for bit, whatever changes the weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from model.rankers import make_batch, make_config, make_ranker
from support import Recorder, feed_config
from torch import Tensor
from training.runs import assert_same_run, interrupt

from recap.config.file.load import config_of
from recap.config.recap import RecapConfig
from recap.errors import Interrupted, NotFinite
from recap.native import SWITCH
from recap.native.rounded_weight import RoundedWeight, usable
from recap.runtime import Runtime
from recap.training.balancing.build import build_balancing
from recap.training.optimizer.one_pass import keep_rounded
from recap.training.optimizer.rounded_weights import rounded_weights
from recap.training.optimizer.scheduled import ScheduledOptimizer
from recap.training.step import TrainStep
from recap.training.trainer import train

pytestmark = pytest.mark.skipif(not usable(), reason="this version of torch has no gradients of another dtype")

CONSTANT = {"kind": "constant", "learning_rate": 0.01}
RATES = {"backbone": CONSTANT, "towers": {"default": CONSTANT}}
WIDE = {"kind": "mlp", "layer_sizes": [300, 300]}
"""Its second layer has 90,000 numbers: one copy."""
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adam": {},
    "adamw": {"algorithm": {"kind": "adamw", "weight_decay": 0.1}},
    "accumulated": {},
    "clipped": {"clip_gradients": {"kind": "norm", "max_norm": 0.01}},
    "penalised": {"network_l2": 0.01},
    "uncertainty": {"balancing": {"kind": "uncertainty"}},
    "pcgrad": {"balancing": {"kind": "pcgrad"}},
    "frozen": {"frozen": ["sharing"]},
}
READS_BF16 = {"adam", "adamw", "uncertainty"}


def run_config(feed: Path, folder: Path, **training: Any) -> RecapConfig:
    tower = {"kind": "mlp", "layer_sizes": [8], "batch_norm": {}}
    model = {"backbone": WIDE, "tasks": {task: {"tower": tower} for task in ("like", "share")}}
    return feed_config(feed, folder, model=model, optimizer=RATES, training={"precision": "bf16", **training})


def training_step(optimizer: Mapping[str, Any], parts: int = 1) -> tuple[RecapConfig, TrainStep]:
    values = make_config("mlp-share_all").model_dump()
    values["model"]["backbone"] = WIDE
    values["optimizer"] = RATES | dict(optimizer)
    values["training"]["gradient_accumulation"] = parts
    config = config_of(values)
    runtime = Runtime(torch.device("cpu"), precision="bf16")
    ranker = make_ranker(config).eval()  # without dropout, whose draws depend on the switch
    keep_rounded(config, runtime, ranker)
    balancing = build_balancing(config, ranker.parameters(), runtime.device)
    scheduled = ScheduledOptimizer(config, ranker, balancing.parameters())
    return config, TrainStep(config, ranker, balancing, scheduled, runtime)


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "frozen"])
def test_gradients_are_bf16_where_only_adam_reads_them(name: str) -> None:
    config, step = training_step(OPTIMIZERS[name], parts=2 if name == "accumulated" else 1)
    step(make_batch(config, rows=12, seed=0), 1)
    ((weight, copy),) = rounded_weights(step.ranker).items()
    assert weight.grad is not None
    assert weight.grad.dtype == (torch.bfloat16 if name in READS_BF16 else torch.float32)
    assert torch.equal(copy.memory, weight.bfloat16())  # the optimizer wrote it
    others = [parameter for parameter in step.ranker.parameters() if parameter is not weight]
    assert {each.grad.dtype for each in others if each.grad is not None} == {torch.float32}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_equal_those_of_autocast_bit_for_bit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for switch in ("0", "1"):
        monkeypatch.setenv(SWITCH, switch)
        config, step = training_step(OPTIMIZERS[name], parts=2 if name == "accumulated" else 1)
        assert bool(rounded_weights(step.ranker)) == (switch == "0")
        losses = [step(make_batch(config, rows=12, seed=number), number + 1) for number in range(3)]
        results.append({**step.ranker.state_dict(), **step.optimizer.state_dict(), "losses": torch.stack(losses)})
    assert results[0].keys() == results[1].keys()
    assert [key for key in results[0] if not torch.equal(results[0][key], results[1][key])] == []


def test_a_run_equals_that_of_autocast_bit_for_bit(feed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a moving average, which swaps weights, and statistics of BatchNorm that are estimated anew."""
    for folder, switch in (("copies", "0"), ("autocast", "1")):
        monkeypatch.setenv(SWITCH, switch)
        averaged = {"ema": {"decay": 0.9}, "batch_norm_rows": 64, "num_train_steps": 6, "eval_log_every_n": 2}
        train(run_config(feed, tmp_path / folder, **averaged), Recorder())
    assert_same_run(tmp_path / "copies", tmp_path / "autocast", 6)


def test_a_stopped_run_resumes_bit_for_bit(feed: Path, tmp_path: Path) -> None:
    whole, stopped = (
        run_config(feed, tmp_path / name, ema={"decay": 0.9}, num_train_steps=6) for name in ("whole", "stopped")
    )
    train(whole, Recorder())
    with pytest.raises(Interrupted):
        train(stopped, Recorder({3: interrupt}))
    train(stopped, Recorder())
    assert_same_run(tmp_path / "whole", tmp_path / "stopped", 6)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e30])
def test_a_gradient_that_is_not_finite_changes_nothing(value: float) -> None:
    config, step = training_step({})
    batch = make_batch(config, rows=12, seed=0)
    step(batch, 1)
    ((weight, copy),) = rounded_weights(step.ranker).items()
    before = {name: tensor.clone() for name, tensor in step.ranker.state_dict().items()}
    rounded = copy.current().clone()

    def spoiled(gradient: Tensor) -> Tensor:
        assert gradient.dtype == torch.bfloat16
        return torch.full_like(gradient, value)

    weight.register_hook(spoiled)
    with pytest.raises(NotFinite, match="gradient"):
        step(batch, 2)
    assert all(torch.equal(before[name], tensor) for name, tensor in step.ranker.state_dict().items())
    assert torch.equal(copy.current(), rounded)


def test_a_copy_follows_every_change_of_its_weight() -> None:
    weight = torch.nn.Parameter(torch.randn(300, 300))
    copy = RoundedWeight(weight)
    other = torch.randn(300, 300)
    for change in (
        lambda: weight.detach().add_(1.0),
        lambda: weight.detach().view(-1)[:5].zero_(),
        lambda: setattr(weight, "data", other),
        lambda: weight.detach().copy_(torch.ones(300, 300)),
    ):
        copy.current()
        change()
        assert torch.equal(copy.current(), weight.detach().bfloat16())


@pytest.mark.parametrize(
    "runtime",
    [Runtime(torch.device("cpu")), Runtime(torch.device("cpu"), precision="float16"), Runtime(torch.device("meta"))],
)
def test_only_adam_in_bf16_on_a_cpu_has_copies(runtime: Runtime) -> None:
    config, step = training_step({})
    _, descent = training_step({"algorithm": {"kind": "sgd"}})
    assert not rounded_weights(descent.ranker)
    ranker = make_ranker(config)
    keep_rounded(config, runtime, ranker)
    assert not rounded_weights(ranker)
    assert rounded_weights(step.ranker)
