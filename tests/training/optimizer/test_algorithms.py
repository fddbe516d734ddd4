"""Algorithms against slow versions and torch's plain ones, separate algorithms of tables, and runs with each."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model.rankers import make_batch, make_config, make_ranker
from pydantic import TypeAdapter
from safetensors.torch import load, save
from support import Recorder, feed_config, feed_values, write_feed
from torch import Tensor, nn
from torch.testing import assert_close
from training.runs import assert_same_run, files, interrupt, records

from recap.config.file.load import config_of
from recap.config.optimizer import TableAlgorithmConfig
from recap.config.recap import RecapConfig
from recap.errors import ConfigError, Interrupted
from recap.runtime import start_runtime
from recap.training.balancing.build import build_balancing
from recap.training.optimizer.algorithms import build_algorithm
from recap.training.optimizer.scheduled import ScheduledOptimizer
from recap.training.step import TrainStep
from recap.training.trainer import train

RATE = 0.01
CONSTANT = {"kind": "constant", "learning_rate": RATE}
ADAM = {"kind": "adam", "beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-6}
ALGORITHMS: dict[str, dict[str, Any]] = {
    "adam": ADAM,
    "adamw": ADAM | {"kind": "adamw", "weight_decay": 0.3},
    "sgd": {"kind": "sgd"},
    "momentum": {"kind": "sgd", "momentum": 0.8},
    "nesterov": {"kind": "sgd", "momentum": 0.8, "nesterov": True},
    "adagrad": {"kind": "adagrad", "epsilon": 1e-6},
    "adagrad_that_starts_above_0": {"kind": "adagrad", "initial_accumulator_value": 0.3},
}
PLAIN = {"foreach": False, "fused": False}
OF_TORCH: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "adam": lambda each: torch.optim.Adam(each, RATE, (0.8, 0.95), 1e-6, **PLAIN),
    "adamw": lambda each: torch.optim.AdamW(each, RATE, (0.8, 0.95), 1e-6, 0.3, **PLAIN),
    "sgd": lambda each: torch.optim.SGD(each, RATE, **PLAIN),
    "momentum": lambda each: torch.optim.SGD(each, RATE, 0.8, **PLAIN),
    "nesterov": lambda each: torch.optim.SGD(each, RATE, 0.8, nesterov=True, **PLAIN),
    "adagrad": lambda each: torch.optim.Adagrad(each, RATE, eps=1e-6, **PLAIN),
    "adagrad_that_starts_above_0": lambda each: torch.optim.Adagrad(each, RATE, initial_accumulator_value=0.3, **PLAIN),
}


def slow_number(algorithm: dict[str, Any], weight: float, gradients: list[float]) -> float:
    """A number after steps with these gradients at `RATE`, by the formulas of the papers."""
    mean = square = velocity = 0.0
    total = algorithm.get("initial_accumulator_value", 0.0)
    for step, gradient in enumerate(gradients, start=1):
        match algorithm["kind"]:
            case "adam" | "adamw":
                first, second = algorithm["beta_1"], algorithm["beta_2"]
                mean = first * mean + (1 - first) * gradient
                square = second * square + (1 - second) * gradient**2
                weight -= RATE * algorithm.get("weight_decay", 0.0) * weight
                root = (square / (1 - second**step)) ** 0.5 + algorithm["epsilon"]
                weight -= RATE * mean / (1 - first**step) / root
            case "sgd":
                momentum = algorithm.get("momentum", 0.0)
                velocity = momentum * velocity + gradient
                weight -= RATE * (gradient + momentum * velocity if algorithm.get("nesterov") else velocity)
            case "adagrad":
                total += gradient**2
                weight -= RATE * gradient / (total**0.5 + algorithm.get("epsilon", 1e-10))
    return weight


def parameters() -> list[nn.Parameter]:
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(5))]


def built(name: str, groups: list[list[nn.Parameter]]) -> torch.optim.Optimizer:
    optimizer = build_algorithm(TypeAdapter(TableAlgorithmConfig).validate_python(ALGORITHMS[name]), groups)
    for group in optimizer.param_groups:
        group["lr"] = RATE
    return optimizer


@pytest.mark.parametrize("name", ALGORITHMS)
def test_algorithms_match_their_papers_and_torch(name: str) -> None:
    ours, theirs = parameters(), parameters()
    before = [parameter.detach().double().numpy().ravel() for parameter in parameters()]
    optimizer, plain = built(name, [ours]), OF_TORCH[name](theirs)
    seen: list[list[np.ndarray[Any, Any]]] = [[], []]
    for _ in range(4):
        for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
            seen[index].append(one.grad.double().numpy().ravel())
        optimizer.step()
        plain.step()
    for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        assert_close(one, other)
        by_number = zip(before[index], np.stack(seen[index], axis=1), strict=True)
        slow = [slow_number(ALGORITHMS[name], weight, list(gradients)) for weight, gradients in by_number]
        assert_close(one.detach().double().flatten(), torch.tensor(slow, dtype=torch.float64), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_parameter_starts_with_its_first_gradient(name: str) -> None:
    late, alone = parameters()[0], parameters()[0]
    beside = parameters()[1]
    optimizer, other = built(name, [[late, beside], []]), built(name, [[alone]])
    for step in range(3):
        beside.grad = torch.ones_like(beside)
        if step:
            late.grad = torch.full_like(late, float(step))
            alone.grad = late.grad.clone()
            other.step()
        optimizer.step()
    assert_close(late, alone)


SPARSE: dict[str, dict[str, Any]] = {
    "sgd": {"kind": "sgd"},
    "adagrad": {"kind": "adagrad"},
    "rowwise_adagrad": {"kind": "rowwise_adagrad", "epsilon": 1e-8},
    "lazy_adam": ADAM,
}


def optimizer_values(algorithm: str, tables: str | None, *, sparse: bool = False, **more: Any) -> dict[str, Any]:
    values = {"algorithm": ALGORITHMS[algorithm], "backbone": CONSTANT, "towers": {"default": CONSTANT}, **more}
    if tables is not None:
        kinds = ALGORITHMS | SPARSE
        rate = {"kind": "piecewise_constant", "learning_rate_boundaries": [4], "learning_rate_values": [0.05, 0.02]}
        values["tables"] = {"algorithm": kinds[tables], "learning_rate": rate, "sparse": sparse}
    return values


RUNS: dict[str, dict[str, Any]] = {
    **{name: optimizer_values(name, None) for name in ALGORITHMS if name != "adam"},
    "tables_of_adamw": optimizer_values("momentum", "adamw"),
    "tables_of_rowwise_adagrad": optimizer_values("adam", "rowwise_adagrad", embedding_l2=0.01),
    **{f"sparse_{name}": optimizer_values("adam", name, sparse=True, network_l2=0.01) for name in SPARSE},
    "sparse_beside_uncertainty": optimizer_values("sgd", "adagrad", sparse=True, balancing={"kind": "uncertainty"}),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_stopped_run_resumes_bit_for_bit_with_every_algorithm(name: str, feed: Path, tmp_path: Path) -> None:
    training = {"num_train_steps": 8, "eval_log_every_n": 8, "gradient_accumulation": 2}
    whole, stopped = (
        feed_config(feed, tmp_path / run, optimizer=RUNS[name], training=training) for run in ("whole", "stopped")
    )
    train(whole, Recorder())
    for step in (3, 5):
        with pytest.raises(Interrupted):
            train(stopped, Recorder({step: interrupt}))
    train(stopped, Recorder())
    assert_same_run(tmp_path / "whole", tmp_path / "stopped", 8)
    if "tables" in RUNS[name]:
        lines = [line for line in records(tmp_path / "whole") if line["split"] == "train"]
        assert [line["rate/tables"] for line in lines] == [0.05, 0.02, 0.02]  # of steps 3, 6 and 8


def histories(optimizer: dict[str, Any]) -> RecapConfig:
    """Hashed ids with two codes each, a history that shares their table, and other features."""
    values = make_config("history_din").model_dump()
    values["features"]["discrete"]["post"]["hash"]["hashes"] = 2
    values["optimizer"] = optimizer
    return config_of(values)


def after_steps(config: RecapConfig, count: int, parts: int = 1) -> tuple[dict[str, Tensor], ScheduledOptimizer]:
    """The weights after `count` steps over different batches, in evaluation mode, so that no dropout is drawn."""
    values = config.model_dump()
    values["training"]["gradient_accumulation"] = parts
    config = config_of(values)
    ranker, runtime = make_ranker(config).eval(), start_runtime()
    balancing = build_balancing(config, ranker.parameters(), runtime.device)
    optimizer = ScheduledOptimizer(config, ranker, balancing.parameters())
    step = TrainStep(config, ranker, balancing, optimizer, runtime)
    for number in range(count):
        step(make_batch(config, rows=12, seed=number), number + 1)
    for name, parameter in ranker.named_parameters():
        if ".embeddings." in name and config.optimizer.tables is not None:
            assert parameter.grad is not None
            assert parameter.grad.is_sparse == config.optimizer.tables.sparse
    return {name: value.detach() for name, value in ranker.named_parameters()}, optimizer


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("name", [name for name in SPARSE if name != "lazy_adam"])
def test_sparse_steps_of_a_ranker_equal_dense_ones(name: str, parts: int) -> None:
    sparse, _ = after_steps(histories(optimizer_values("sgd", name, sparse=True)), 4, parts)
    dense, _ = after_steps(histories(optimizer_values("sgd", name)), 4)
    start = dict(make_ranker(histories(optimizer_values("sgd", name))).named_parameters())
    for parameter, value in sparse.items():
        # Adagrad divides a first gradient by its own size, so rounding shows where that is about 0.
        assert_close(value, dense[parameter], atol=1e-4, rtol=1e-3, msg=lambda text, at=parameter: f"{at}: {text}")
    moved = [weight for weight in start if ".embeddings." in weight and not torch.equal(start[weight], sparse[weight])]
    assert len(moved) == 3  # hour, post and the actions of a history


def test_lazy_adam_counts_micro_batches_as_one_step() -> None:
    config = histories(optimizer_values("sgd", "lazy_adam", sparse=True))
    whole, _ = after_steps(config, 4)
    accumulated, optimizer = after_steps(config, 4, parts=3)
    for name, value in whole.items():
        assert_close(accumulated[name], value, atol=1e-3, rtol=1e-3)
    assert optimizer.state_dict()["inputs.embeddings.tables.post.weight/step"] == 4


def test_rowwise_adagrad_has_one_number_per_row_and_sgd_has_no_state() -> None:
    _, optimizer = after_steps(histories(optimizer_values("sgd", "rowwise_adagrad", sparse=True)), 1)
    shapes = {name: tuple(value.shape) for name, value in optimizer.state_dict().items()}
    rows = {"hour": 25, "post": 31, "watched/attributes/action": 4}
    assert shapes == {f"inputs.embeddings.tables.{table}.weight/sum": (count,) for table, count in rows.items()}


@pytest.mark.parametrize("name", [name for name in RUNS if name != "sparse_beside_uncertainty"])
def test_optimizer_state_survives_a_file_bit_for_bit(name: str) -> None:
    config = histories(RUNS[name])
    _, optimizer = after_steps(config, 2)
    saved = load(save(optimizer.state_dict()))
    other = ScheduledOptimizer(config, make_ranker(config))
    other.load_state_dict(saved)
    loaded = other.state_dict()
    assert loaded.keys() == saved.keys()
    assert all(torch.equal(loaded[entry], value) for entry, value in saved.items())


def test_a_model_of_only_tables_and_towers_trains(feed: Path, tmp_path: Path) -> None:
    """The group of the backbone has no parameters."""
    config = feed_config(
        feed,
        tmp_path / "run",
        features={"continuous": [], "binary": [], "vectors": {}, "discrete": {"hour": {"size": 24}}},
        model={"sharing": {"kind": "share_none"}, "backbone": None},
        optimizer=optimizer_values("adagrad", "sgd", sparse=True),
        training={"num_train_steps": 2},
    )
    train(config, Recorder())
    assert "inputs.embeddings.tables.hour.weight" in files(tmp_path / "run", 2, "weights.safetensors")


def test_tables_of_histories_train_sparsely(tmp_path: Path) -> None:
    feed = write_feed(tmp_path / "feed", histories=True)
    config = histories(optimizer_values("adamw", "rowwise_adagrad", sparse=True))
    values = feed_values(feed, tmp_path / "run")
    values |= {name: getattr(config, name).model_dump() for name in ("features", "model", "optimizer")}
    values["training"]["num_train_steps"] = 3
    recorder = Recorder()
    train(config_of(values), recorder)
    assert recorder.steps == [1, 2, 3]


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "weight decay by rows": (
        optimizer_values("adam", "adamw", sparse=True),
        "optimizer.tables.sparse: adamw decays every row in every step, but sparse steps update only the rows of "
        "a batch; use adam, or set sparse to false",
    ),
    "momentum by rows": (
        optimizer_values("adam", "momentum", sparse=True),
        "optimizer.tables.sparse: momentum changes rows after their batch, but sparse steps update only the "
        "rows of a batch; set momentum to 0, or sparse to false",
    ),
    "a penalty on whole tables": (
        optimizer_values("adam", "adagrad", sparse=True, embedding_l2=0.1),
        "optimizer.embedding_l2: changes every row in every step, but sparse steps update only the rows of a "
        "batch; set it to 0, set optimizer.embedding_l2_rows to batch or frequency, or set optimizer.tables.sparse to "
        "false",
    ),
    "gradients of tasks": (
        optimizer_values("adam", "adagrad", sparse=True, balancing={"kind": "pcgrad"}),
        "optimizer.balancing: pcgrad needs dense gradients of tables; use 'none' or 'uncertainty', or set "
        "optimizer.tables.sparse to false",
    ),
    "norms of gradients": (
        optimizer_values("adam", "adagrad", sparse=True, balancing={"kind": "grad_norm"}),
        "optimizer.balancing: grad_norm needs dense gradients of tables; use 'none' or 'uncertainty', or set "
        "optimizer.tables.sparse to false",
    ),
    "nesterov without momentum": (
        optimizer_values("adam", None) | {"algorithm": {"kind": "sgd", "nesterov": True}},
        "optimizer.algorithm.nesterov: has no effect without momentum; set momentum above 0, or remove it",
    ),
    "rows of no table": (
        optimizer_values("adam", None) | {"algorithm": {"kind": "rowwise_adagrad"}},
        "optimizer.algorithm.kind: 'rowwise_adagrad' is unknown. Known: adam, adamw, sgd, adagrad.",
    ),
}


def test_sparse_steps_cannot_be_compiled() -> None:
    values = feed_values(Path("feed"), Path("run")) | {"optimizer": optimizer_values("adam", "sgd", sparse=True)}
    values["training"]["compile"] = True
    (problem,) = problems_of(values)
    assert problem.startswith("training.compile: torch.compile does not support sparse gradients; set it to false")


def problems_of(values: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        config_of(values)
    return [f"{problem.path}: {problem.text}" for problem in caught.value.problems]


@pytest.mark.parametrize("name", WRONG)
def test_contradictory_optimizer_settings_are_refused(name: str) -> None:
    optimizer, text = WRONG[name]
    (problem,) = problems_of(feed_values(Path("feed"), Path("run")) | {"optimizer": optimizer})
    assert problem.startswith(text)


@pytest.mark.parametrize("embeddings", [{"default": 0}, {"hour": 0, "language": 0}, None])
def test_an_algorithm_for_tables_needs_tables(embeddings: dict[str, Any] | None) -> None:
    values = feed_values(Path("feed"), Path("run")) | {"optimizer": optimizer_values("adam", "sgd")}
    values["model"]["embeddings"] = embeddings or {}
    if embeddings is None:
        values["features"]["discrete"] = {}
    (problem,) = problems_of(values)
    assert problem.startswith("optimizer.tables: there are no embedding tables to update; remove it")


def test_the_position_table_does_not_count_as_a_table() -> None:
    values = feed_values(Path("feed"), Path("run")) | {"optimizer": optimizer_values("adam", "sgd")}
    values["features"]["discrete"] = {"hour": {"size": 24}}
    values["model"] |= {"embeddings": {}, "position_debias": {"feature": "hour", "max_position": 12, "num_dims": 3}}
    (problem,) = problems_of(values)
    assert problem.startswith("optimizer.tables: there are no embedding tables")


def test_towers_need_no_default_rate_if_every_task_has_one() -> None:
    values = make_config("mlp-share_all").model_dump()
    faster = {"kind": "constant", "learning_rate": 2 * RATE}
    values["optimizer"] = {"backbone": CONSTANT, "towers": {"like": CONSTANT, "share": faster}}
    config = config_of(values)
    optimizer = ScheduledOptimizer(config, make_ranker(config))
    assert optimizer.rates(1) == {"backbone": RATE, "towers/like": RATE, "towers/share": 2 * RATE}
