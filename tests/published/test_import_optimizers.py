"""Import of optimizers in the published form."""

from pathlib import Path
from typing import Any

import pytest
from published.files import complete_values, imported, read_back, refusals


@pytest.fixture
def published(tmp_path: Path) -> dict[str, Any]:
    """The complete file as plain values, for a test to change, without an algorithm."""
    values = complete_values(tmp_path)
    values["optimizer"].pop("adam")
    return values


@pytest.mark.parametrize(
    ("source", "ours"),
    [
        ({}, {"kind": "adam", "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7}),
        ({"adam": {"beta_1": 0.8}}, {"kind": "adam", "beta_1": 0.8, "beta_2": 0.999, "epsilon": 1e-7}),
        ({"sgd": {}}, {"kind": "sgd", "momentum": 0.0, "nesterov": False}),
        ({"adam": None, "sgd": {"momentum": 0.9}}, {"kind": "sgd", "momentum": 0.9, "nesterov": False}),
        ({"adagrad": {"eps": 1e-6}}, {"kind": "adagrad", "epsilon": 1e-6, "initial_accumulator_value": 0.0}),
    ],
)
def test_an_algorithm_is_converted(
    source: dict[str, Any], ours: dict[str, Any], tmp_path: Path, published: dict[str, Any]
) -> None:
    published["optimizer"] |= source
    result = imported(tmp_path, published)
    assert read_back(tmp_path, result).optimizer.algorithm.model_dump() == ours
    assert not [remark for remark in result.remarks if remark.path.startswith(("optimizer.sgd", "optimizer.ada"))]


@pytest.mark.parametrize("source", [{}, {"eps": 0.0}])
def test_an_epsilon_of_zero_becomes_the_minimum(
    source: dict[str, Any], tmp_path: Path, published: dict[str, Any]
) -> None:
    published["optimizer"]["adagrad"] = source
    result = imported(tmp_path, published)
    assert read_back(tmp_path, result).optimizer.algorithm.model_dump()["epsilon"] == 1e-12
    (remark,) = (remark for remark in result.remarks if remark.path.startswith("optimizer.adagrad"))
    assert remark.text.startswith("0 becomes 1e-12, the minimum")


@pytest.mark.parametrize("name", ["sgd", "adagrad"])
def test_a_rate_of_the_algorithm_is_left_out(name: str, tmp_path: Path, published: dict[str, Any]) -> None:
    expected = read_back(tmp_path, imported(tmp_path, published)).optimizer
    published["optimizer"][name] = {"lr": 0.5}
    result = imported(tmp_path, published)
    ours = read_back(tmp_path, result).optimizer
    assert (ours.backbone, ours.towers) == (expected.backbone, expected.towers)
    texts = {remark.path: remark.text for remark in result.remarks}
    assert texts[f"optimizer.{name}.lr"] == "left out: single_task_learning_rate or multi_task_learning_rates apply"


def test_two_algorithms_are_refused(tmp_path: Path, published: dict[str, Any]) -> None:
    published["optimizer"] |= {"adagrad": {"lr": 0.1}, "sgd": {"lr": 0.1}}
    (message,) = refusals(tmp_path, published)
    assert message == "optimizer: set one of adam, sgd, adagrad; found sgd and adagrad"
