"""Every backbone against the equations of its paper, written as slow loops over numbers; and torch.export."""

import math
from typing import Any

import pytest
import torch
from model.kinds import BACKBONES
from pydantic import TypeAdapter
from torch import Tensor, nn
from torch.export import Dim, export
from torch.testing import assert_close

from recap.config.backbones import BackboneConfig
from recap.config.model import TaskConfig
from recap.errors import ConfigError
from recap.model.backbones import build_backbone
from recap.model.inputs.layout import InputLayout
from recap.model.layers import Mlp
from recap.model.towers import Tower

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


# MLP


def test_dropout_has_a_rate_for_each_layer_with_a_relu() -> None:
    sizes = {"kind": "mlp", "layer_sizes": [8, 6, 4]}
    for settings, rates in (
        ({"dropout": {"rates": [0.1, 0.0]}}, [0.1, 0.0]),
        ({"dropout": {"rates": [0.1, 0.0, 0.3]}, "final_layer_activation": True}, [0.1, 0.0, 0.3]),
        ({"dropout": {"rate": 0.2}}, [0.2, 0.2]),
        ({"dropout": {}, "final_layer_activation": True}, [0.1, 0.1, 0.1]),
        ({}, []),
    ):
        network = build_backbone(config_of({**sizes, **settings}), LAYOUT)
        assert [module.p for module in network.modules() if isinstance(module, nn.Dropout)] == rates


def test_a_tower_has_a_rate_for_each_hidden_layer() -> None:
    settings = {"kind": "mlp", "layer_sizes": [8, 6], "dropout": {"rates": [0.1, 0.3]}}
    tower = Tower(TaskConfig.model_validate({"tower": settings}), LAYOUT)
    assert [module.p for module in tower.modules() if isinstance(module, nn.Dropout)] == [0.1, 0.3]


# DCN-v2


def crossed(network: Any, row: Row) -> Row:
    """x ← x₀ ⊙ (W x + b) + x."""
    net = row
    for layer in network.cross:
        if isinstance(layer.weight, nn.Linear):
            weight, bias = layer.weight.weight.tolist(), layer.weight.bias.tolist()
        else:  # W = U Vᵀ
            right, left = layer.weight[0].weight.tolist(), layer.weight[1].weight.tolist()
            weight = [[sum(u * right[k][j] for k, u in enumerate(line)) for j in range(len(row))] for line in left]
            bias = layer.weight[1].bias.tolist()
        net = [first * product + old for first, product, old in zip(row, lin_of(weight, bias, net), net, strict=True)]
    return net


def lin_of(weight: Matrix, bias: Row, row: Row) -> Row:
    return plus(times(weight, row), bias)


def test_dcn_of_cross_layers_alone_matches_its_equation() -> None:
    network = make(kind="dcn", poly_degree=3)
    assert_agrees(network, lambda row: crossed(network, row))


def test_low_rank_dcn_with_a_parallel_mlp_matches_its_equation() -> None:
    network = make(
        kind="dcn",
        poly_degree=2,
        projection_dim=3,
        parallel_mlp={"layer_sizes": [6, 5]},
        output_mlp={"layer_sizes": [4], "final_layer_activation": True},
    )
    assert sum(p.numel() for p in network.cross.parameters()) == 2 * (2 * 15 * 3 + 15)
    assert_agrees(network, lambda row: mlp(network.output_mlp, crossed(network, row) + mlp(network.parallel_mlp, row)))


def test_stacked_dcn_matches_its_equation() -> None:
    network = make(kind="dcn", poly_degree=2, use_parallel=False, parallel_mlp={"layer_sizes": [6, 5]})
    assert_agrees(network, lambda row: mlp(network.parallel_mlp, crossed(network, row)))


def test_n_cross_layers_make_a_polynomial_of_degree_n_plus_1() -> None:
    """Along any line the output is a polynomial, whose differences of the next order vanish."""
    for degree in (1, 2, 4):
        network = make(kind="dcn", poly_degree=degree)
        along = torch.linspace(-1, 1, degree + 3, dtype=torch.float64)[:, None] * torch.ones(LAYOUT.width).double()
        values = network(along)
        assert_close(values.diff(degree + 2, dim=0), torch.zeros(1, LAYOUT.width).double(), atol=1e-8, rtol=0)
        assert (values.diff(degree + 1, dim=0).abs() > 1e-6).any()


# GDCN


def gated(network: Any, row: Row) -> Row:
    """c ← c₀ ⊙ (W c + b) ⊙ σ(G c) + c."""
    net = row
    for layer in network.cross:
        product, gate = lin(layer.weight, net), lin(layer.gate, net)
        net = [row[i] * product[i] * sigmoid(gate[i]) + net[i] for i in range(len(row))]
    return net


@pytest.mark.parametrize("deep", [{}, {"mlp": {"layer_sizes": [6, 5]}}])
def test_gdcn_matches_its_equation(deep: dict[str, Any]) -> None:
    network = make(kind="gdcn", num_layers=2, **deep)
    assert_agrees(network, lambda row: gated(network, row) + (mlp(network.mlp, row) if deep else []))


def test_stacked_gdcn_matches_its_equation() -> None:
    network = make(kind="gdcn", num_layers=2, use_parallel=False, mlp={"layer_sizes": [5]})
    assert_agrees(network, lambda row: mlp(network.mlp, gated(network, row)))


# DLRM


@pytest.mark.parametrize("top", [None, {"layer_sizes": [6, 3]}])
def test_dlrm_takes_the_products_of_all_pairs(top: dict[str, Any] | None) -> None:
    layout = InputLayout(3, [4, 4, 4])
    network = make(layout, kind="dlrm", bottom_mlp={"layer_sizes": [5, 4]}, top_mlp=top)

    def slow(row: Row) -> Row:
        numbers = mlp(network.bottom_mlp, row[:3])
        fields = [numbers, row[3:7], row[7:11], row[11:15]]
        products = [dot(fields[i], fields[j]) for i in range(4) for j in range(i + 1, 4)]
        return numbers + products if top is None else mlp(network.top_mlp, numbers + products)

    assert_agrees(network, slow, layout)


# FinalMLP


def stream(network: Any, row: Row) -> Row:
    gate, deep = network
    if not isinstance(gate, nn.Identity):
        if hasattr(gate, "context"):
            context = gate.context[0].tolist()
        else:
            context = [value for part in gate.columns for value in row[part]]
        row = [value * 2 * sigmoid(weight) for value, weight in zip(row, mlp(gate.mlp, context), strict=True)]
    return mlp(deep, row)


STREAM: dict[str, Any] = {"mlp": {"layer_sizes": [4]}}
GATES = [
    (None, None),
    ({"kind": "inputs"}, {"kind": "learned", "context_size": 2, "hidden_sizes": [3]}),
    ({"kind": "learned"}, {"kind": "inputs", "hidden_sizes": [5, 3]}),
    ({"kind": "inputs", "features": ["day"]}, {"kind": "inputs", "features": ["hour", "day"], "hidden_sizes": [3]}),
]


def test_a_gate_of_final_mlp_reads_the_columns_of_its_features() -> None:
    network = make(kind="final_mlp", first={"gate": {"kind": "inputs", "features": ["day"]}, **STREAM}, second=STREAM)
    assert network.first[0].columns == [slice(11, 15)]
    assert network.first[0].mlp.layers[0].weight.shape == (15, 4)


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("gates", GATES)
def test_final_mlp_matches_its_equations(heads: int, size: int, gates: Any) -> None:
    network = make(
        kind="final_mlp",
        first={"gate": gates[0], "mlp": {"layer_sizes": [5, 6]}},
        second={"gate": gates[1], "mlp": {"layer_sizes": [4], "final_layer_activation": True}},
        num_heads=heads,
        fusion_size=size,
    )
    fusion = network.fusion

    def slow(row: Row) -> Row:
        first, second = stream(network.first, row), stream(network.second, row)
        left, right = 6 // heads, 4 // heads
        outputs = []
        for k in range(size):
            total = fusion.first.bias[k].item()  # w₀
            for h in range(heads):
                o1, o2 = first[h * left : (h + 1) * left], second[h * right : (h + 1) * right]
                w1 = fusion.first.weight[k, h * left : (h + 1) * left].tolist()
                w2 = fusion.second.weight[k, h * right : (h + 1) * right].tolist()
                w3 = fusion.product[h].view(left, size, right)[:, k].tolist()
                total += dot(w1, o1) + dot(w2, o2) + dot(o1, times(w3, o2))
            outputs.append(total)
        return outputs

    assert_agrees(network, slow)


def test_the_learned_context_of_final_mlps_gates_gets_a_gradient() -> None:
    network = build_backbone(config_of(BACKBONES["final_mlp_gated"]), LAYOUT)
    network(torch.randn(9, LAYOUT.width)).sum().backward()
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    for name in ("second.0.context", "second.0.mlp.layers.0.weight"):
        gradient = gradients[name]
        assert gradient is not None
        assert (gradient != 0).any(), name


# Wukong


def transposed(matrix: Matrix) -> Matrix:
    return [list(column) for column in zip(*matrix, strict=True)]


def wukong_layer(layer: Any, fields: Matrix) -> Matrix:
    """LayerNorm(join(FMB(X), LCB(X)) + X), X compressed if the number of fields changes."""
    weights = layer.machine.projection.weight.tolist()  # Yᵀ
    products = [[dot(left, right) for right in fields] for left in fields]  # X Xᵀ
    machine = [[dot(line, column) for column in weights] for line in products]  # X Xᵀ Y
    flat = mlp(layer.machine.mlp, norm(layer.machine.norm, [value for line in machine for value in line]))
    width = len(fields[0])
    new_fields = [flat[start : start + width] for start in range(0, len(flat), width)]
    columns = transposed(fields)
    new_fields += transposed([lin(layer.compression, column) for column in columns])
    residual = fields
    if not isinstance(layer.residual, nn.Identity):
        residual = transposed([lin(layer.residual, column) for column in columns])
    return [norm(layer.norm, plus(new, old)) for new, old in zip(new_fields, residual, strict=True)]


@pytest.mark.parametrize("numbers", [3, 0])
@pytest.mark.parametrize("deep", [None, {"layer_sizes": [4, 3]}])
def test_wukong_matches_its_equations(numbers: int, deep: dict[str, Any] | None) -> None:
    layout = InputLayout(numbers, [4, 2, 4])
    network = make(
        layout,
        kind="wukong",
        width=4,
        num_dense_fields=2,
        num_layers=3,
        num_fmb_fields=2,
        num_lcb_fields=3,
        rank=2,
        fmb_hidden_sizes=[5],
        mlp=deep,
    )

    def slow(row: Row) -> Row:
        dense = lin(network.fields.dense, row[:numbers]) if numbers else []
        first, second, third = row[numbers : numbers + 4], row[numbers + 4 : numbers + 6], row[numbers + 6 :]
        fields = [dense[start : start + 4] for start in range(0, len(dense), 4)]
        fields += [first, lin(network.fields.projections[1], second), third]
        for layer in network.layers:
            fields = wukong_layer(layer, fields)
        flat = [value for field in fields for value in field]
        return flat if deep is None else mlp(network.mlp, flat)

    assert_agrees(network, slow, layout)
    residuals = [isinstance(layer.residual, nn.Identity) for layer in network.layers]
    assert residuals == [bool(numbers), True, True]  # 5 fields in and 5 out, or 3 in


# RankMixer


def gelu(value: float) -> float:
    return value * 0.5 * (1 + math.erf(value / math.sqrt(2)))


def own(layer: Any, token: int, row: Row) -> Row:
    return lin_of(layer.weight[token].T.tolist(), layer.bias[token].tolist(), row)


def rank_mixer_layer(layer: Any, tokens: Matrix) -> Matrix:
    count, part = len(tokens), len(tokens[0]) // len(tokens)
    outputs = []
    for head in range(count):
        mixed = [value for token in tokens for value in token[head * part : (head + 1) * part]]
        state = norm(layer.mixing_norm, plus(mixed, tokens[head]))
        fed = own(layer.down, head, [gelu(value) for value in own(layer.up, head, state)])
        outputs.append(norm(layer.feed_forward_norm, plus(fed, state)))
    return outputs


def test_rank_mixer_matches_its_equations() -> None:
    layout = InputLayout(6, [4])  # 10 inputs in 4 tokens: 3, 3, 2, 2
    network = make(layout, kind="rank_mixer", num_tokens=4, width=8, num_layers=2, feed_forward_factor=3)

    def slow(row: Row) -> Row:
        parts = [row[:3], row[3:6], row[6:8], row[8:]]
        tokens = [lin(project, part) for project, part in zip(network.tokens.projections, parts, strict=True)]
        for layer in network.layers:
            tokens = rank_mixer_layer(layer, tokens)
        return [sum(column) / 4 for column in transposed(tokens)]

    assert_agrees(network, slow, layout)


def test_rank_mixer_refuses_more_tokens_than_inputs() -> None:
    with pytest.raises(ConfigError, match="num_tokens must be at most the number of inputs, 3; found 4"):
        make(InputLayout.of_numbers(3), kind="rank_mixer", num_tokens=4, width=8, num_layers=1)


# All backbones


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_has_its_output_width_and_exports(name: str) -> None:
    network = build_backbone(config_of(BACKBONES[name]), LAYOUT).eval()
    inputs = torch.randn(6, LAYOUT.width)
    program = export(network, (inputs,), dynamic_shapes=({0: Dim("rows", min=1, max=1000)},))
    for rows in (1, 6, 33):
        inputs = torch.randn(rows, LAYOUT.width)
        outputs: Tensor = network(inputs)
        assert outputs.shape == (rows, network.out_features)
        assert_close(program.module()(inputs), outputs)
