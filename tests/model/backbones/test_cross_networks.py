"""DCN-v2, GDCN, DCNv3 and QNN-α against the equations of their papers, written as slow loops over numbers."""

import math
from typing import Any

import pytest
import torch
from model.backbones.slow import (
    LAYOUT,
    Row,
    assert_agrees,
    config_of,
    lin,
    lin_of,
    make,
    mlp,
    norm,
    plus,
    sigmoid,
)
from torch import nn
from torch.testing import assert_close

from recap.model.backbones import build_backbone
from recap.model.inputs.layout import InputLayout


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


ODD, EVEN = LAYOUT, InputLayout(6, [4])


def self_masked(layer: Any, anchor: Row, row: Row) -> Row:
    """a ⊙ ([c ‖ Mask(c)] + b) + x with c = W x and Mask(c) = c ⊙ max(0, LN(c))."""
    crossed = lin(layer.weight, row)
    mask = [max(0.0, value) for value in norm(layer.norm, crossed)]
    joined = (crossed + [value * gate for value, gate in zip(crossed, mask, strict=True)])[: len(row)]
    biased = plus(joined, layer.bias.tolist())
    return [a * value + x for a, value, x in zip(anchor, biased, row, strict=True)]


@pytest.mark.parametrize("layout", [ODD, EVEN])
def test_dcn_v3_matches_its_equations(layout: InputLayout) -> None:
    network = make(layout, kind="dcn_v3", exponential={"num_layers": 3}, linear={"num_layers": 2})

    def slow(row: Row) -> Row:
        parts = [row[:6], row[6:]] if layout is EVEN else [row[:7], row[7:11], row[11:]]
        halves = [(part[: math.ceil(len(part) / 2)], part[math.ceil(len(part) / 2) :]) for part in parts]
        row = [value for first, _ in halves for value in first] + [value for _, second in halves for value in second]
        deep = shallow = row
        for layer in network.exponential:
            deep = self_masked(layer, deep, deep)
        for layer in network.linear:
            shallow = self_masked(layer, row, shallow)
        return deep + shallow

    assert_agrees(network, slow, layout)


def test_a_cross_network_has_half_the_weights_of_a_full_one() -> None:
    network = make(EVEN, kind="dcn_v3", exponential={"num_layers": 1}, linear={"num_layers": 1})
    assert network.exponential[0].weight.weight.shape == (5, 10)


def quadratic(layer: Any, row: Row) -> Row:
    """x + the sum of the rows of the Khatri–Rao product of [x] and ReLU(W x + b), a matrix of `num_rows` rows."""
    flat = [max(0.0, value) for value in lin(layer.linear, row)]
    factors = [flat[start : start + len(row)] for start in range(0, len(flat), len(row))]
    khatri_rao = [[row[column] * line[column] for column in range(len(row))] for line in factors]
    return plus(row, *khatri_rao)


def test_qnn_matches_its_equation() -> None:
    network = make(kind="qnn", num_layers=2, num_rows=3)

    def slow(row: Row) -> Row:
        for layer in network.layers:
            row = quadratic(layer, row)
        return row

    assert_agrees(network, slow)


def test_qnn_normalizes_before_its_activation() -> None:
    torch.manual_seed(0)
    network = build_backbone(config_of({"kind": "qnn", "num_layers": 1, "batch_norm": {}}), LAYOUT).train()
    rows = torch.randn(50, LAYOUT.width)
    layer: Any = next(network.layers.children())
    raw = layer.linear(rows)
    normal = (raw - raw.mean(dim=0)) / (raw.var(dim=0, unbiased=False) + 1e-5).sqrt()
    assert_close(network(rows), rows + rows * normal.relu().view(50, 2, -1).sum(dim=1))
