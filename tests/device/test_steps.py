"""Every kind of model takes a training step on the GPU, and scores as on the CPU."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from model.kinds import COMBINED
from model.rankers import make_batch, make_config, make_ranker
from torch.testing import assert_close

from recap.config.file.load import config_of
from recap.config.recap import RecapConfig
from recap.model.score_rows import score_rows
from recap.model.scorer import Scorer
from recap.runtime import start_runtime
from recap.training.balancing.build import build_balancing
from recap.training.loss_scale import LossScale
from recap.training.optimizer.scheduled import ScheduledOptimizer
from recap.training.step import TrainStep

TABLES = {"learning_rate": {"kind": "constant", "learning_rate": 0.1}, "sparse": True}
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adamw": {"algorithm": {"kind": "adamw"}, "embedding_l2": 0.1, "network_l2": 0.1},
    "sgd": {"algorithm": {"kind": "sgd", "momentum": 0.9}, "clip_gradients": {"kind": "value", "max_value": 0.1}},
    # Without a start, tiny gradients, such as those of biases before a BatchNorm, would make steps of full length.
    "adagrad": {
        "algorithm": {"kind": "adagrad", "initial_accumulator_value": 0.1},
        "clip_gradients": {"kind": "norm", "max_norm": 0.1},
    },
    "sparse_adam": {"tables": {**TABLES, "algorithm": {"kind": "adam"}}},
    "sparse_adagrad": {"tables": {**TABLES, "algorithm": {"kind": "adagrad"}}},
    "sparse_rowwise_adagrad": {
        "tables": {**TABLES, "algorithm": {"kind": "rowwise_adagrad"}},
        "clip_gradients": {"kind": "norm", "max_norm": 0.1},
    },
    "sparse_sgd": {"tables": {**TABLES, "algorithm": {"kind": "sgd"}}},
    "dense_rowwise_adagrad": {"tables": {**TABLES, "algorithm": {"kind": "rowwise_adagrad"}, "sparse": False}},
    "uncertainty": {"balancing": {"kind": "uncertainty"}},
    "pcgrad": {"balancing": {"kind": "pcgrad"}},
    "grad_norm": {"balancing": {"kind": "grad_norm"}},
}


def without_dropout(config: RecapConfig) -> RecapConfig:
    """The same model; a GPU draws other numbers than a CPU."""

    def stripped(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: stripped(item) for key, item in value.items() if key not in ("dropout", "dropout_rate")}
        return [stripped(item) for item in value] if isinstance(value, list) else value

    return config_of(stripped(config.model_dump(mode="json")))


def steps(config: RecapConfig, device: torch.device, precision: str = "float32") -> list[list[float]]:
    """The losses of two steps on a device, and the logits of the trained model."""
    runtime = start_runtime(precision=precision)  # type: ignore[arg-type]
    runtime = type(runtime)(device, runtime.ranks, runtime.precision)
    ranker = make_ranker(config).to(device)
    balancing = build_balancing(config, ranker.parameters(), device)
    optimizer = ScheduledOptimizer(config, ranker, balancing.parameters())
    scale = LossScale(enabled=precision == "float16")
    step = TrainStep(config, ranker, balancing, optimizer, runtime, loss_scale=scale)
    batch = make_batch(config, rows=64)
    batch = replace(batch, user=torch.arange(64) // 8)
    losses = [step(batch, number).tolist() for number in (1, 2, 3)]
    assert {tensor.device.type for tensor in ranker.state_dict().values()} == {device.type}
    state = optimizer.state_dict()
    optimizer.load_state_dict({name: value.cpu() for name, value in state.items()})
    assert {name: value.device for name, value in optimizer.state_dict().items()} == {
        name: value.device for name, value in state.items()
    }
    losses.append(step(batch, 4).tolist())
    scores = score_rows(Scorer.of(config, ranker).eval(), batch.to(device))
    return [*losses, *scores.logits.cpu().tolist(), scores.score.cpu().tolist()]


def assert_same_on(gpu: torch.device, config: RecapConfig, precision: str = "float32", tolerance: float = 1e-3) -> None:
    expected, found = (steps(config, device, precision) for device in (torch.device("cpu"), gpu))
    assert_close(found, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("kind", [*COMBINED, "jrc", "position_debias"])
def test_a_step_and_scores_equal_those_of_the_cpu(kind: str, gpu: torch.device) -> None:
    assert_same_on(gpu, without_dropout(make_config(kind)))


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_the_optimizer_moves_weights_as_on_the_cpu(kind: str, gpu: torch.device) -> None:
    values = without_dropout(make_config("mlp-share_all")).model_dump(mode="json")
    values["optimizer"] |= OPTIMIZERS[kind]
    values["training"]["gradient_accumulation"] = 2
    assert_same_on(gpu, config_of(values))


@pytest.mark.parametrize("precision", ["tf32", "bf16", "float16"])
def test_lower_precision_agrees_up_to_rounding(precision: str, gpu: torch.device) -> None:
    assert_same_on(gpu, without_dropout(make_config("mask_net_parallel-share_all")), precision, 0.05)


def test_dropout_and_losses_on_order_train_on_the_gpu(gpu: torch.device) -> None:
    values = make_config("mlp_rates-share_all").model_dump(mode="json")
    values["model"]["tasks"]["like"] |= {loss: {"weight": 1.0} for loss in ("pairwise", "listwise", "jrc")}
    first, again = (steps(config_of(values), gpu) for _ in range(2))
    assert first == again
