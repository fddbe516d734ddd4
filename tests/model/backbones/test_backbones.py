"""DLRM, FinalMLP and Wukong against the equations of their papers, as slow loops; every backbone in torch.export."""

from typing import Any

import pytest
import torch
from model.backbones.slow import (
    LAYOUT,
    Matrix,
    Row,
    assert_agrees,
    config_of,
    dot,
    lin,
    make,
    mlp,
    norm,
    plus,
    sigmoid,
    times,
    transposed,
)
from model.kinds import BACKBONES
from torch import Tensor, nn
from torch.export import Dim, export
from torch.testing import assert_close

from recap.model.backbones import build_backbone
from recap.model.inputs.layout import InputLayout

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
