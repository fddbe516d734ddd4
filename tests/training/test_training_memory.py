"""The memory that `recap model summary` reports for training: gradients, optimizer state, the moving average."""

from typing import Any

import pytest
import torch
from model.kinds import CASES
from model.rankers import make_config, make_ranker

from recap.config.file.load import config_of
from recap.errors import ConfigError
from recap.model.frozen import freeze
from recap.training.optimizer import memory
from recap.training.optimizer.memory import TrainingMemory, check_memory, training_memory
from recap.training.optimizer.scheduled import ScheduledOptimizer

PARAMETERS = 4 * sum(parameter.numel() for parameter in make_ranker(make_config("mlp-share_all")).parameters())
"""Bytes of all parameters of the model below."""
TABLES = 4 * (25 * 4 + 3 * 4)
"""Bytes of the tables of hour and language."""


def values_with(**optimizer: Any) -> dict[str, Any]:
    values = make_config("mlp-share_all").model_dump()
    values["optimizer"] |= optimizer
    return values


def measure(values: dict[str, Any]) -> TrainingMemory:
    config = config_of(values)
    ranker = make_ranker(config)
    freeze(ranker, config.optimizer.frozen)
    return training_memory(config, ranker)


@pytest.mark.parametrize("case", CASES)
def test_adam_takes_two_moments_for_every_parameter(case: str) -> None:
    config = make_config(case)
    ranker = make_ranker(config)
    parameters = sum(parameter.numel() for parameter in ranker.parameters())
    assert training_memory(config, ranker) == TrainingMemory(4 * parameters, 8 * parameters, 0)


@pytest.mark.parametrize(
    ("algorithm", "others", "tables"),
    [
        ({"kind": "adam"}, 2, 2 * TABLES),
        ({"kind": "adamw"}, 2, 2 * TABLES),
        ({"kind": "sgd"}, 0, 0),
        ({"kind": "sgd", "momentum": 0.9}, 1, TABLES),
        ({"kind": "adagrad"}, 1, TABLES),
        ({"kind": "rowwise_adagrad"}, 2, TABLES // 4),
    ],
)
def test_moments_have_the_size_of_the_optimizers_state(algorithm: dict[str, Any], others: int, tables: int) -> None:
    plain = algorithm if algorithm["kind"] != "rowwise_adagrad" else {"kind": "adam"}
    rate = {"kind": "constant", "learning_rate": 0.1}
    values = values_with(algorithm=plain, tables={"algorithm": algorithm, "learning_rate": rate})
    memory = measure(values)
    assert memory.gradient_bytes == PARAMETERS
    assert memory.moment_bytes == others * (PARAMETERS - TABLES) + tables
    ranker = make_ranker(config_of(values))
    optimizer = ScheduledOptimizer(config_of(values), ranker)
    for parameter in ranker.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step(0)
    state = {name: value for name, value in optimizer.state_dict().items() if not name.endswith("/step")}
    assert memory.moment_bytes == sum(value.nbytes for value in state.values())


def test_sparse_gradients_of_tables_do_not_count() -> None:
    rate = {"kind": "constant", "learning_rate": 0.1}
    values = values_with(tables={"algorithm": {"kind": "sgd"}, "learning_rate": rate, "sparse": True})
    assert measure(values).gradient_bytes == PARAMETERS - TABLES


def test_frozen_weights_take_no_gradients_no_moments_and_no_average() -> None:
    values = values_with()
    values["training"]["ema"] = {"decay": 0.99}
    assert measure(values) == TrainingMemory(PARAMETERS, 2 * PARAMETERS, PARAMETERS)
    values["optimizer"]["frozen"] = ["inputs.embeddings"]
    learned = PARAMETERS - TABLES
    assert measure(values) == TrainingMemory(learned, 2 * learned, learned)


def test_training_without_memory_for_its_moments_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config("mlp-share_all")
    ranker = make_ranker(config)
    check_memory(config, ranker)
    monkeypatch.setattr(memory, "free_memory", lambda: 3 * PARAMETERS - 1)
    with pytest.raises(ConfigError, match=r"0.0 GiB that are free: gradients 0.0 GiB, optimizer state 0.0 GiB. Make"):
        check_memory(config, ranker)
    monkeypatch.setattr(memory, "free_memory", lambda: 3 * PARAMETERS)
    check_memory(config, ranker)
