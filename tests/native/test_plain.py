"""`RECAP_PLAIN=1`: recap learns the same without the tricks for speed."""

import json
import sys
from pathlib import Path

import pytest
import torch
from recipes.test_simulated import GOLDEN, losses, platform_facts
from support import Recorder, feed_config
from training.runs import assert_same_run

from recap.model.layers import Dropout
from recap.native import SWITCH, torch_private
from recap.native.allocator import tune_process
from recap.training.trainer import train


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "1")


@pytest.mark.slow
def test_the_golden_losses_do_not_depend_on_the_tricks(plain: None, tmp_path: Path) -> None:
    golden = json.loads(GOLDEN.read_text())
    by_task = losses(tmp_path)
    for task, expected in golden["losses"].items():
        numbers = [float.fromhex(number) for number in expected]
        tolerance = 0.0 if golden["platform_facts"] == platform_facts() else 1e-2
        assert by_task[task] == pytest.approx(numbers, rel=tolerance, abs=tolerance / 10), task


def test_a_run_without_dropout_is_the_same_bit_for_bit(
    feed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run uses clipping, a moving average, penalties and sparse tables, which call private functions of torch."""
    constant = {"kind": "constant", "learning_rate": 0.01}
    tower = {"kind": "mlp", "layer_sizes": [8]}
    for name, switch in (("fast", "0"), ("plain", "1")):
        monkeypatch.setenv(SWITCH, switch)
        config = feed_config(
            feed,
            tmp_path / name,
            training={"ema": {"decay": 0.9}},
            model={
                "backbone": {"kind": "mlp", "layer_sizes": [16]},
                "tasks": {"like": {"tower": tower}, "share": {"tower": tower}},
            },
            optimizer={
                "backbone": constant,
                "towers": {"default": constant},
                "clip_gradients": {"kind": "value", "max_value": 0.01},
                "network_l2": 0.01,
            },
        )
        train(config, Recorder())
    assert_same_run(tmp_path / "fast", tmp_path / "plain", 12)


def test_dropout_is_that_of_torch(plain: None) -> None:
    inputs = torch.ones(100, 7)
    torch.manual_seed(0)
    ours = Dropout(0.3)(inputs)
    torch.manual_seed(0)
    assert torch.equal(ours, torch.nn.Dropout(0.3)(inputs))


def test_the_process_keeps_its_settings(plain: None) -> None:
    before = sys.getswitchinterval()
    tune_process()
    assert sys.getswitchinterval() == before


def test_private_functions_and_their_fallbacks_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    rows = torch.sparse_coo_tensor(torch.tensor([[2, 0]]), torch.tensor([[1.0], [2.0]]), (4, 1), check_invariants=True)
    for switch in ("0", "1"):
        monkeypatch.setenv(SWITCH, switch)
        torch.manual_seed(0)
        tensors, others = ([torch.randn(3, 2), torch.randn(5)] for _ in range(2))
        torch_private.foreach_add_(tensors, others, 0.5)
        torch_private.foreach_lerp_(tensors, others, 0.25)
        torch_private.foreach_mul_(tensors, 1.5)
        torch_private.foreach_clamp_(tensors, 1.0)
        indices, values = torch_private.sparse_parts(rows)
        dense = torch.sparse_coo_tensor(indices, values, (4, 1), check_invariants=True).to_dense()
        results.append([*tensors, torch.stack(torch_private.foreach_norm(tensors)), dense])
    for private, fallback in zip(*results, strict=True):
        assert torch.equal(private, fallback)
