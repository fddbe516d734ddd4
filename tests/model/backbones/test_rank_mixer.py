"""RankMixer and its experts against the equations of the paper, written as slow loops over numbers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from model.backbones.slow import Matrix, Row, assert_agrees, config_of, gelu, lin, make, norm, own, plus, transposed
from torch.testing import assert_close

from recap.errors import ConfigError
from recap.model.backbones import build_backbone
from recap.model.backbones.rank_mixer import SparseExperts
from recap.model.inputs.layout import InputLayout

LAYOUT = InputLayout(6, [4])
"""10 inputs, in 4 tokens: 3, 3, 2, 2."""
MIXER = {"kind": "rank_mixer", "num_tokens": 4, "width": 8, "num_layers": 2, "feed_forward_factor": 3}


def fed_forward(layer: Any, token: int, row: Row) -> Row:
    return own(layer.down, token, [gelu(value) for value in own(layer.up, token, row)])


def mixture(layer: Any, token: int, row: Row) -> Row:
    """Σⱼ Gⱼ(s) FFNⱼ(s) with G = ReLU(h(s)), of one token."""
    experts = layer.experts
    gates = [max(0.0, value) for value in own(experts.gate, token, row)]
    total = [0.0] * len(row)
    for number, gate in enumerate(gates):
        index = token * len(gates) + number
        fed = own(experts.down, index, [gelu(value) for value in own(experts.up, index, row)])
        total = plus(total, [gate * value for value in fed])
    return total


def rank_mixer(network: Any, feed: Callable[[Any, int, Row], Row], row: Row) -> Row:
    """The mean of the tokens after layers LN(mix(X) + X), then LN(`feed`(S) + S)."""
    parts = [row[:3], row[3:6], row[6:8], row[8:]]
    tokens: Matrix = [lin(project, part) for project, part in zip(network.tokens.projections, parts, strict=True)]
    for layer in network.layers:
        outputs = []
        for head in range(4):
            mixed = [value for token in tokens for value in token[head * 2 : (head + 1) * 2]]
            state = norm(layer.mixing_norm, plus(mixed, tokens[head]))
            outputs.append(norm(layer.feed_forward_norm, plus(feed(layer, head, state), state)))
        tokens = outputs
    return [sum(column) / 4 for column in transposed(tokens)]


def test_rank_mixer_matches_its_equations() -> None:
    network = make(LAYOUT, **MIXER)
    assert_agrees(network, lambda row: rank_mixer(network, fed_forward, row), LAYOUT)


def test_rank_mixer_mixes_experts_as_in_its_equations() -> None:
    network = make(LAYOUT, **MIXER, experts={"num_experts": 3})
    assert_agrees(network, lambda row: rank_mixer(network, mixture, row), LAYOUT)


def test_rank_mixer_refuses_more_tokens_than_inputs() -> None:
    with pytest.raises(ConfigError, match="num_tokens must be at most the number of inputs, 3; found 4"):
        make(InputLayout.of_numbers(3), kind="rank_mixer", num_tokens=4, width=8, num_layers=1)


def experts_of(**settings: Any) -> SparseExperts:
    torch.manual_seed(0)
    network = build_backbone(config_of({**MIXER, "num_layers": 1, "experts": {"num_experts": 3, **settings}}), LAYOUT)
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
