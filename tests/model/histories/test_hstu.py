"""HSTU: against the equations of its paper, written slowly, and what candidates and events see."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model.histories.rows import LENGTH, WIDTH, ages_of, make_rows
from model.kinds import ENCODERS
from model.rankers import make_batch, make_config, make_ranker
from torch import Tensor
from torch.nn.functional import layer_norm, silu
from torch.testing import assert_close

from recap.config.histories import HstuConfig
from recap.model.histories.hstu import Hstu
from recap.model.histories.inputs import Events
from recap.model.inputs.tables import table_specs

SEEDS = st.integers(0, 10_000)


def make_hstu(**changes: Any) -> Hstu:
    """Two units over single tokens, with large biases, so that they matter."""
    config = HstuConfig.model_validate(ENCODERS["hstu_interleaved"] | {"interleave": None} | changes)
    torch.manual_seed(1)
    model = Hstu(config, WIDTH, LENGTH).eval()
    for unit in model._units:
        for bias in (unit.positions, unit.times):
            if bias is not None:
                torch.nn.init.normal_(bias)
    return model


def slow_hstu(model: Hstu, events: Tensor, ages: Tensor, length: int, target: Tensor) -> Tensor:
    """Equations 1 to 3 and the relative bias for one row, token and head at a time; the candidate is the last token."""
    tokens = [model.project(event) for event in [*events[:length], target]]
    seconds = [*ages[:length].tolist(), 0.0]
    for unit in model._units:
        parts = []
        for token in tokens:
            normed = layer_norm(token, token.shape, unit.norm.weight, unit.norm.bias)
            parts.append(silu(unit.split.weight @ normed + unit.split.bias).chunk(4))  # equation 1: U, V, Q, K
        added = []
        for index, (gates, _, query, _) in enumerate(parts):
            heads = []
            for head in range(unit.heads):
                width = len(query) // unit.heads
                part = slice(head * width, (head + 1) * width)
                total = torch.zeros(width)
                for other, (_, value, _, key) in enumerate(parts[: index + 1]):
                    bias = unit.positions[index - other]
                    if unit.times is not None:
                        elapsed = max(seconds[other] - seconds[index], 1.0)
                        bias = bias + unit.times[min(math.floor(math.log(elapsed) / 0.301), 127)]
                    total = total + silu(query[part] @ key[part] + bias) / len(tokens) * value[part]  # equation 2
                heads.append(total)
            mixed = torch.cat(heads)
            normed = layer_norm(mixed, mixed.shape, unit.mixed_norm.weight, unit.mixed_norm.bias)
            added.append(unit.joined.weight @ (normed * gates) + unit.joined.bias)  # equation 3
        tokens = [token + more for token, more in zip(tokens, added, strict=True)]
    output: Tensor = model.norm(tokens[-1])
    return output


@settings(max_examples=10, deadline=None)
@given(SEEDS, st.sampled_from(["gap", None]))
def test_hstu_matches_the_equations_of_its_paper(seed: int, ages_name: str | None) -> None:
    model = make_hstu(ages=ages_name)
    events, lengths, target = make_rows(seed)
    ages = ages_of(events)
    found = model(events, lengths, target, ages)
    expected = [slow_hstu(model, *row) for row in zip(events, ages, lengths.tolist(), target, strict=True)]
    assert_close(found, torch.stack(expected), atol=1e-5, rtol=1e-4)


@settings(max_examples=10, deadline=None)
@given(SEEDS)
def test_a_user_encoded_once_gives_each_of_many_candidates_what_it_has_alone(seed: int) -> None:
    model = make_hstu()
    events, lengths, _ = make_rows(seed)
    targets = torch.randn(64, WIDTH, generator=torch.Generator().manual_seed(seed))
    for row, length in enumerate(lengths.tolist()):
        own, ages = events[row, :length], ages_of(events)[row, :length]
        together = model.attend(model.encode(own, ages), targets)
        alone = [model(own[None], lengths[[row]], target[None], ages[None]) for target in targets[:3]]
        assert_close(together[:3], torch.cat(alone), atol=1e-5, rtol=1e-5)
        changed = torch.cat([targets[:3], 5 - targets[3:]])
        assert torch.equal(model.attend(model.encode(own, ages), changed)[:3], together[:3])


def test_an_event_does_not_depend_on_later_ones_except_through_the_number_of_tokens() -> None:
    model = make_hstu()
    events, lengths, _ = make_rows(0)
    full, ages = torch.full_like(lengths, LENGTH), ages_of(events)
    keys = model._encode(events, full, ages)[4]  # of the second unit: [B, heads, L, width / heads]
    for index in range(LENGTH):
        changed = events.clone()
        changed[:, index] += 1.0
        others = model._encode(changed, full, ages)[4]
        assert torch.equal(others[:, :, :index], keys[:, :, :index])
        assert not torch.isclose(others[:, :, index:], keys[:, :, index:]).all(dim=3).any()


def test_the_order_of_events_and_their_ages_matter() -> None:
    model = make_hstu()
    events, lengths, target = make_rows(0)
    full, ages = torch.full_like(lengths, LENGTH), ages_of(events)
    output = model(events, full, target, ages)
    assert not torch.isclose(model(events.flip(1), full, target, ages), output).all(dim=1).any()
    assert not torch.isclose(model(events, full, target, 60 * ages), output).all(dim=1).any()


def test_the_attribute_to_interleave_follows_its_event_as_a_token_of_its_own() -> None:
    config = make_config("history_hstu_interleaved")
    history = config.features.histories["watched"]
    tables = {feature: spec for spec in table_specs(config, {}) for feature in spec.features}
    encoders = [
        HstuConfig.model_validate(ENCODERS["hstu_interleaved"] | change) for change in ({}, {"interleave": None})
    ]
    torch.manual_seed(0)
    interleaved, added = (Events("watched", history, encoder, tables) for encoder in encoders)
    added.load_state_dict(interleaved.state_dict())
    batch = make_batch(config)
    embeddings = {
        feature: torch.randn(*batch.histories[feature].shape[:2], spec.width)
        for feature, spec in tables.items()
        if feature in batch.histories
    }
    tokens, lengths, ages = interleaved(batch.histories, embeddings)
    events, event_lengths, event_ages = added(batch.histories, embeddings)
    assert torch.equal(lengths, 2 * event_lengths)
    assert torch.equal(tokens[:, 1::2], embeddings["watched/attributes/action"])
    assert_close(tokens[:, 0::2] + tokens[:, 1::2], events)
    assert ages is not None
    assert event_ages is not None
    assert torch.equal(ages[:, 0::2], event_ages)
    assert torch.equal(ages[:, 1::2], event_ages)


def test_two_thousand_interleaved_events_are_encoded() -> None:
    config = HstuConfig.model_validate(ENCODERS["hstu_interleaved"])
    model = Hstu(config, WIDTH, 2_000).eval()
    events = torch.randn(1, 4_000, WIDTH)
    with torch.inference_mode():
        output = model(events, torch.tensor([4_000]), torch.randn(1, WIDTH), ages_of(events))
    assert output.isfinite().all()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 3e38, -3e38])
def test_ages_of_any_value_give_finite_logits(value: float) -> None:
    config = make_config("history_hstu_interleaved")
    ranker, batch = make_ranker(config).eval(), make_batch(config)
    ages = batch.histories["watched/attributes/gap"]
    ages[::2] = value
    assert ranker(batch).logits.isfinite().all()
