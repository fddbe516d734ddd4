"""DCNv3, QNN-α and RankMixer's experts against the equations of their papers, written as slow loops over numbers."""

import math
from typing import Any

import pytest
import torch
from model.test_backbones import (
    LAYOUT,
    Matrix,
    Row,
    assert_agrees,
    config_of,
    gelu,
    lin,
    make,
    norm,
    own,
    plus,
    transposed,
)
from torch.testing import assert_close

from recap.model.backbones import build_backbone
from recap.model.backbones.rank_mixer import SparseExperts
from recap.model.inputs.layout import InputLayout

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


MIXER = {"kind": "rank_mixer", "num_tokens": 4, "width": 8, "num_layers": 2, "feed_forward_factor": 3}


def mixture(experts: Any, token: int, row: Row) -> Row:
    """Σⱼ Gⱼ(s) FFNⱼ(s) with G = ReLU(h(s)), of one token."""
    gates = [max(0.0, value) for value in own(experts.gate, token, row)]
    total = [0.0] * len(row)
    for number, gate in enumerate(gates):
        index = token * len(gates) + number
        fed = own(experts.down, index, [gelu(value) for value in own(experts.up, index, row)])
        total = plus(total, [gate * value for value in fed])
    return total


def test_rank_mixer_mixes_experts_as_in_its_equations() -> None:
    network = make(EVEN, **MIXER, experts={"num_experts": 3})

    def layer_of(layer: Any, tokens: Matrix) -> Matrix:
        outputs = []
        for head in range(4):
            mixed = [value for token in tokens for value in token[head * 2 : (head + 1) * 2]]
            state = norm(layer.mixing_norm, plus(mixed, tokens[head]))
            outputs.append(norm(layer.feed_forward_norm, plus(mixture(layer.experts, head, state), state)))
        return outputs

    def slow(row: Row) -> Row:
        parts = [row[:3], row[3:6], row[6:8], row[8:]]
        tokens = [lin(project, part) for project, part in zip(network.tokens.projections, parts, strict=True)]
        for layer in network.layers:
            tokens = layer_of(layer, tokens)
        return [sum(column) / 4 for column in transposed(tokens)]

    assert_agrees(network, slow, EVEN)


def experts_of(**settings: Any) -> SparseExperts:
    torch.manual_seed(0)
    network = build_backbone(config_of({**MIXER, "num_layers": 1, "experts": {"num_experts": 3, **settings}}), EVEN)
    (experts,) = [module for module in network.modules() if isinstance(module, SparseExperts)]
    return experts


def test_each_row_of_training_is_mixed_by_one_of_the_two_gates() -> None:
    experts = experts_of()
    tokens = torch.randn(200, 4, 8)
    trained = experts.train()(tokens)
    of_evaluation = experts.eval()(tokens)
    experts.gate, experts.training_gate = experts.training_gate, experts.gate
    of_training = experts(tokens)
    by_gate = [torch.isclose(trained, other, atol=1e-6).all(dim=2).all(dim=1) for other in (of_evaluation, of_training)]
    assert (by_gate[0] ^ by_gate[1]).all()
    assert 60 < by_gate[0].sum() < 140


def test_the_penalty_is_on_the_gates_of_evaluation_in_excess() -> None:
    """λ Σ G with λ = penalty_weight · max(0, share of gates above 0 − active_share)."""
    tokens = torch.randn(50, 4, 8)
    for settings, weight, limit in (
        ({"active_share": 0.25, "penalty_weight": 2.0}, 2.0, 0.25),
        ({"active_share": 0.9}, 10.0, 0.9),
    ):
        experts = experts_of(**settings).train()
        experts(tokens)
        gates = torch.stack([experts.gate(tokens)[:, :, expert].clamp(min=0) for expert in range(3)], dim=2)
        excess = max(0.0, (gates > 0).double().mean().item() - limit)
        penalty = experts.take_penalty()
        assert penalty is not None
        assert_close(penalty, weight * excess * gates.sum(dim=(1, 2)))
        assert experts.take_penalty() is None
    experts.eval()(tokens)
    assert experts.take_penalty() is None


def test_the_penalty_leads_to_the_share_of_active_gates() -> None:
    experts = experts_of(active_share=0.2).train()
    optimizer = torch.optim.Adam(experts.parameters(), 0.01)
    tokens = torch.randn(300, 4, 8)
    for _ in range(80):
        optimizer.zero_grad()
        loss = (experts(tokens) - tokens).square().mean()
        penalty = experts.take_penalty()
        assert penalty is not None
        (loss + penalty.mean()).backward()
        optimizer.step()
    share, dense = ((gate(tokens) > 0).float().mean().item() for gate in (experts.gate, experts.training_gate))
    assert share == pytest.approx(0.2, abs=0.05)
    assert dense > 0.5
