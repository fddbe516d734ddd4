"""Backbones for tests against the equations of their papers, and their layers, written as slow loops over numbers."""

import math
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import nn
from torch.testing import assert_close

from recap.config.backbones import BackboneConfig
from recap.model.backbones import build_backbone
from recap.model.inputs.layout import InputLayout
from recap.model.layers import Mlp

LAYOUT = InputLayout(7, [4, 4], ["hour", "day"])
"""Inputs that every backbone of the shared suite accepts."""
Row = list[float]
Matrix = list[Row]


def config_of(values: dict[str, Any]) -> BackboneConfig:
    return TypeAdapter[BackboneConfig](BackboneConfig).validate_python(values)


def make(layout: InputLayout = LAYOUT, **values: Any) -> Any:
    """A backbone in float64, with noise added to every initial parameter."""
    torch.manual_seed(0)
    network = build_backbone(config_of(values), layout).double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return network


def assert_agrees(network: nn.Module, slow: Any, layout: InputLayout = LAYOUT) -> None:
    """Assert that `slow`, which takes one row, agrees with `network`."""
    torch.manual_seed(1)
    inputs = torch.randn(5, layout.width, dtype=torch.float64)
    expected = torch.tensor([slow(row) for row in inputs.tolist()], dtype=torch.float64)
    outputs = network(inputs)
    assert outputs.shape == (5, network.out_features)
    assert_close(outputs, expected)


# Layers, one row at a time


def times(matrix: Matrix, row: Row) -> Row:
    return [sum(weight * value for weight, value in zip(line, row, strict=True)) for line in matrix]


def plus(*rows: Row) -> Row:
    return [sum(values) for values in zip(*rows, strict=True)]


def dot(left: Row, right: Row) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True))


def lin(layer: Any, row: Row) -> Row:
    product = times(layer.weight.tolist(), row)
    return product if layer.bias is None else plus(product, layer.bias.tolist())


def mlp(network: Mlp, row: Row) -> Row:
    """An MLP of Linear and ReLU only."""
    for layer in network.layers:
        row = lin(layer, row) if isinstance(layer, nn.Linear) else [max(value, 0.0) for value in row]
    return row


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def norm(layer: Any, row: Row) -> Row:
    mean = sum(row) / len(row)
    variance = sum((value - mean) ** 2 for value in row) / len(row)
    scaled = [(value - mean) / math.sqrt(variance + layer.eps) for value in row]
    return plus([a * b for a, b in zip(scaled, layer.weight.tolist(), strict=True)], layer.bias.tolist())


def lin_of(weight: Matrix, bias: Row, row: Row) -> Row:
    return plus(times(weight, row), bias)


def gelu(value: float) -> float:
    return value * 0.5 * (1 + math.erf(value / math.sqrt(2)))


def own(layer: Any, token: int, row: Row) -> Row:
    return lin_of(layer.weight[token].T.tolist(), layer.bias[token].tolist(), row)


def transposed(matrix: Matrix) -> Matrix:
    return [list(column) for column in zip(*matrix, strict=True)]
