"""OneTrans: against the equations of its paper, written slowly, and what events and the other tokens see."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model.histories.rows import LENGTH, WIDTH, make_rows
from model.kinds import ENCODERS
from model.rankers import make_batch, make_config, make_ranker
from torch import Tensor
from torch.nn.functional import gelu
from torch.testing import assert_close

from recap.config.histories import OneTransConfig
from recap.model.histories.one_trans import OneTrans, _Mixed

SEEDS = st.integers(0, 10_000)
ROW = 7
"""Other inputs of a row."""


def make_one_trans(**changes: Any) -> OneTrans:
    config = OneTransConfig.model_validate(ENCODERS["one_trans"] | changes)
    torch.manual_seed(1)
    return OneTrans(config, WIDTH, LENGTH, ROW).eval()


def make_targets(seed: int, count: int) -> Tensor:
    return torch.randn(count, ROW, generator=torch.Generator().manual_seed(seed))


def slow_one_trans(model: OneTrans, retained: list[int], events: Tensor, length: int, target: Tensor) -> Tensor:
    """One row, token and head at a time: the events that are left, then the other tokens."""
    own = list(model.split(target).chunk(model.tokens))
    left = [
        model.project(event) + model.positions.weight[length - index] for index, event in enumerate(events[:length])
    ]
    for block, count in zip(model._blocks, [*retained, 0], strict=True):
        tokens = [*left, *own]

        def map_of(layer: _Mixed, index: int, token: Tensor, events: int = len(left)) -> Tensor:
            if index < events:
                return layer.shared.weight @ token + layer.shared.bias
            return token @ layer.own.weight[index - events] + layer.own.bias[index - events]

        normed = [token / (token.square().mean() + 1e-6).sqrt() * block.attention_norm.weight for token in tokens]
        outputs = []
        for index in range(max(len(left) - count, 0), len(tokens)):  # the oldest events are no queries
            query = map_of(block.queries, index, normed[index])
            heads = []
            for head in range(block.heads):
                width = len(query) // block.heads
                part = slice(head * width, (head + 1) * width)
                keys = torch.stack([map_of(block.keys, j, normed[j])[part] for j in range(index + 1)])
                values = torch.stack([map_of(block.values, j, normed[j])[part] for j in range(index + 1)])
                heads.append((keys @ query[part] / width**0.5).softmax(dim=0) @ values)
            token = tokens[index] + map_of(block.joined, index, torch.cat(heads))
            normed_token = token / (token.square().mean() + 1e-6).sqrt() * block.feed_forward_norm.weight
            hidden = gelu(map_of(block.up, index, normed_token))
            outputs.append(token + map_of(block.down, index, hidden))
        left, own = outputs[: -model.tokens], outputs[-model.tokens :]
    return torch.cat([token / (token.square().mean() + 1e-6).sqrt() * model.norm.weight for token in own])


@settings(max_examples=10, deadline=None)
@given(SEEDS, st.sampled_from([[4, 2], [6, 6], [1, 1]]))
def test_one_trans_matches_the_equations_of_its_paper(seed: int, retained: list[int]) -> None:
    model = make_one_trans(retained_events=retained)
    events, lengths, _ = make_rows(seed)
    targets = make_targets(seed, len(events))
    rows = zip(events, lengths.tolist(), targets, strict=True)
    expected = torch.stack([slow_one_trans(model, retained, *row) for row in rows])
    assert_close(model(events, lengths, targets), expected, atol=1e-5, rtol=1e-4)


@settings(max_examples=10, deadline=None)
@given(SEEDS)
def test_a_user_encoded_once_gives_each_of_many_candidates_what_it_has_alone(seed: int) -> None:
    model = make_one_trans()
    events, lengths, _ = make_rows(seed)
    targets = make_targets(seed, 64)
    for row, length in enumerate(lengths.tolist()):
        own = events[row, :length]
        together = model.attend(model.encode(own), targets)
        alone = [model(own[None], lengths[[row]], target[None]) for target in targets[:3]]
        assert_close(together[:3], torch.cat(alone), atol=1e-5, rtol=1e-5)
        changed = torch.cat([targets[:3], 5 - targets[3:]])
        assert torch.equal(model.attend(model.encode(own), changed)[:3], together[:3])


def test_a_token_depends_on_the_tokens_before_it_and_on_none_after_it() -> None:
    model = make_one_trans()
    events, lengths, _ = make_rows(0)
    targets = make_targets(0, len(events))
    before = model(events, lengths, targets).unflatten(1, (model.tokens, -1))
    for index in range(model.tokens):
        with torch.no_grad():
            model.split.bias.unflatten(0, (model.tokens, -1))[index] += 1.0
        after = model(events, lengths, targets).unflatten(1, (model.tokens, -1))
        assert torch.equal(after[:, :index], before[:, :index])
        assert not torch.isclose(after[:, index:], before[:, index:]).all(dim=2).any()
        before = after


def test_every_event_matters_though_fewer_pass_on() -> None:
    model = make_one_trans(retained_events=[1, 1])
    events, lengths, _ = make_rows(0)
    targets, full = make_targets(0, len(events)), torch.full_like(lengths, LENGTH)
    output = model(events, full, targets)
    for index in range(LENGTH):
        changed = events.clone()
        changed[:, index] += 1.0
        assert not torch.isclose(model(changed, full, targets), output).all(dim=1).any()


@pytest.mark.parametrize(
    ("layers", "tokens", "max_length", "retained"),
    [(1, 8, 50, []), (2, 10, 50, [30]), (4, 12, 1200, [903, 606, 309]), (3, 8, 5, [5, 5])],
)
def test_by_default_fewer_events_pass_on_in_equal_steps(
    layers: int, tokens: int, max_length: int, retained: list[int]
) -> None:
    config = OneTransConfig(kind="one_trans", num_layers=layers, num_tokens=tokens)
    assert config.retained(max_length) == retained
    assert OneTrans(config, WIDTH, max_length, ROW).retained == retained


def test_it_reads_all_other_inputs_of_a_row() -> None:
    config = make_config("history_one_trans")
    ranker, batch = make_ranker(config).eval(), make_batch(config)
    assert ranker.inputs.histories is not None
    encoder = ranker.inputs.histories.encoders.named("watched")
    vectors: list[Tensor] = []
    encoder.register_forward_hook(lambda module, inputs, output: vectors.append(output))
    ranker(batch)
    inputs = ranker.inputs(batch)
    assert encoder.split.in_features == inputs.shape[1] - encoder.out_features
    for tensor in (batch.continuous, batch.binary, batch.discrete, *batch.vectors.values()):
        before = tensor.clone()
        tensor.copy_(1 - before.clamp(0, 1))
        ranker(batch)
        assert not torch.allclose(vectors[-1], vectors[0])
        tensor.copy_(before)
