"""Encoders of histories: each against its definition, and the laws that all obey."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model.histories.rows import LENGTH, WIDTH, ages_of, make_rows
from model.kinds import ENCODERS
from model.rankers import make_batch, make_config, make_ranker
from torch import Tensor, nn
from torch.testing import assert_close

from recap.config.histories import DinConfig, HistoryModelConfig, TransformerConfig
from recap.data.batch import Batch
from recap.model.histories import HistoryEncoder, build_history_encoder
from recap.model.histories.din import Din
from recap.model.histories.transformer import Transformer
from recap.model.ranker import Ranker

SEEDS = st.integers(0, 10_000)


def make_encoder(name: str, max_length: int = LENGTH) -> HistoryEncoder:
    torch.manual_seed(1)
    encoder = HistoryModelConfig.model_validate({"encoder": ENCODERS[name]}).encoder
    return build_history_encoder(encoder, WIDTH, max_length, row_width=WIDTH).eval()


@pytest.fixture(params=ENCODERS)
def encoder(request: pytest.FixtureRequest) -> HistoryEncoder:
    return make_encoder(request.param)


def test_padding_never_changes_a_result(encoder: HistoryEncoder) -> None:
    for seed in range(20):
        events, lengths, target = make_rows(seed)
        other = events.clone()
        for row, length in enumerate(lengths):
            other[row, length:] = 1e3 * torch.randn(LENGTH - int(length), WIDTH)
        expected = encoder(events, lengths, target, ages_of(events))
        assert torch.equal(encoder(other, lengths, target, ages_of(other)), expected)


@pytest.mark.parametrize("name", ENCODERS)
def test_a_larger_max_length_changes_nothing(name: str) -> None:
    short, long = make_encoder(name), make_encoder(name, max_length=LENGTH + 4)
    for weight, longer in zip(short.state_dict().values(), long.state_dict().values(), strict=True):
        weight.copy_(longer[: len(weight)])
    for seed in range(20):
        events, lengths, target = make_rows(seed)
        padded = nn.functional.pad(events, (0, 0, 0, 4), value=3.0)
        found, expected = (
            model(inputs, lengths, target, ages_of(inputs)) for model, inputs in ((long, padded), (short, events))
        )
        assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_rows_are_independent(encoder: HistoryEncoder) -> None:
    for seed in range(20):
        events, lengths, target = make_rows(seed)
        rows, inputs = range(len(lengths)), (events, lengths, target, ages_of(events))
        together = encoder(*inputs)
        alone = [encoder(*(part[[row]] for part in inputs)) for row in rows]
        assert_close(torch.cat(alone), together, atol=1e-6, rtol=1e-5)


def test_a_row_without_events_is_finite_and_so_are_its_gradients(encoder: HistoryEncoder) -> None:
    events, lengths, target = make_rows(0)
    events.requires_grad_()
    output = encoder(events, torch.zeros_like(lengths), target, ages_of(events.detach()))
    assert output.isfinite().all()
    output.sum().backward()
    assert events.grad is not None
    assert (events.grad == 0).all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in encoder.parameters())


@given(SEEDS)
def test_pooling_follows_its_definition(seed: int) -> None:
    events, lengths, target = make_rows(seed)
    for row, length in enumerate(lengths.tolist()):
        valid = events[row, :length]
        expected = {
            "pooling_sum": valid.sum(dim=0),
            "pooling_mean": valid.mean(dim=0) if length else torch.zeros(WIDTH),
            "pooling_last": valid[-1] if length else torch.zeros(WIDTH),
        }
        for name, value in expected.items():
            assert_close(make_encoder(name)(events, lengths, target)[row], value)


@given(SEEDS, st.permutations(range(LENGTH)))
def test_pooling_and_din_ignore_the_order_of_events(seed: int, order: list[int]) -> None:
    events, _, target = make_rows(seed)
    full = torch.full((len(events),), LENGTH)
    for name in ("pooling_mean", "pooling_sum", "din", "din_normalized"):
        encoder = make_encoder(name)
        assert_close(encoder(events[:, order], full, target), encoder(events, full, target), atol=1e-5, rtol=1e-5)


def slow_din(din: Din, events: Tensor, length: int, target: Tensor) -> Tensor:
    """Equation 3 of the paper, one event at a time."""
    weights = []
    for event in events[:length]:
        inputs = torch.cat([event, target, event - target, event * target])
        for layer in din.activation_unit.layers:
            inputs = layer(inputs)
        weights.append(inputs[0])
    if din.normalize and weights:
        weights = list(torch.stack(weights).softmax(dim=0))
    return sum((weight * event for weight, event in zip(weights, events, strict=False)), torch.zeros(WIDTH))


@given(SEEDS)
def test_din_matches_equation_3_of_its_paper(seed: int) -> None:
    for name in ("din", "din_normalized"):
        din = make_encoder(name)
        assert isinstance(din, Din)
        events, lengths, target = make_rows(seed)
        expected = [slow_din(din, events[row], int(length), target[row]) for row, length in enumerate(lengths)]
        assert_close(din(events, lengths, target), torch.stack(expected), atol=1e-5, rtol=1e-5)


def test_din_has_the_activation_unit_of_its_paper_by_default() -> None:
    config = DinConfig(kind="din", target="post")
    assert (config.layer_sizes, config.normalize) == ([36], False)
    assert [tuple(p.shape) for p in Din(config, 4).parameters()] == [(36, 16), (36,), (1, 36), (1,)]


def slow_transformer(model: Transformer, events: Tensor, length: int, target: Tensor) -> Tensor:
    """One row, token and head at a time, without a mask since nothing is padded."""
    tokens = [model.project(event) for event in [*events[:length], target]]
    tokens = [token + model.positions.weight[length - index] for index, token in enumerate(tokens)]
    for block in model.blocks:
        normed = [block.attention_norm(token) for token in tokens]
        mixed = []
        for index, _ in enumerate(tokens):
            heads = []
            for head in range(block.heads):
                width = len(tokens[0]) // block.heads
                part = slice(head * width, (head + 1) * width)
                query = block.queries(normed[index])[part]
                keys = torch.stack([block.keys(token)[part] for token in normed[: index + 1]])
                values = torch.stack([block.values(token)[part] for token in normed[: index + 1]])
                heads.append((keys @ query / width**0.5).softmax(dim=0) @ values)
            mixed.append(block.joined(torch.cat(heads)))
        tokens = [token + added for token, added in zip(tokens, mixed, strict=True)]
        tokens = [token + block.feed_forward(block.feed_forward_norm(token)) for token in tokens]
    output: Tensor = model.norm(tokens[-1])
    return output


@settings(max_examples=15, deadline=None)
@given(SEEDS)
def test_the_transformer_matches_a_loop_over_tokens(seed: int) -> None:
    model = make_encoder("transformer")
    assert isinstance(model, Transformer)
    events, lengths, target = make_rows(seed)
    expected = [slow_transformer(model, events[row], int(length), target[row]) for row, length in enumerate(lengths)]
    assert_close(model(events, lengths, target), torch.stack(expected), atol=1e-5, rtol=1e-4)


def test_no_event_attends_to_later_events_or_the_candidate() -> None:
    model = make_encoder("transformer")
    assert isinstance(model, Transformer)
    outputs: list[Tensor] = []
    model.blocks[-1].register_forward_hook(lambda module, inputs, output: outputs.append(output))
    events, lengths, target = make_rows(0)
    lengths = torch.full_like(lengths, LENGTH)
    model(events, lengths, target)
    for index in range(LENGTH):
        changed = events.clone()
        changed[:, index] += 1.0
        model(changed, lengths, target)
        assert torch.equal(outputs[-1][:, :index], outputs[0][:, :index])
        assert not torch.isclose(outputs[-1][:, index:], outputs[0][:, index:]).all(dim=2).any()
    model(events, lengths, target + 1.0)
    assert torch.equal(outputs[-1][:, :-1], outputs[0][:, :-1])
    assert not torch.isclose(outputs[-1][:, -1], outputs[0][:, -1]).all(dim=1).any()


def test_the_transformer_depends_on_the_order_of_events() -> None:
    model = make_encoder("transformer")
    events, lengths, target = make_rows(0)
    full = torch.full_like(lengths, LENGTH)
    assert not torch.allclose(model(events.flip(1), full, target), model(events, full, target), atol=1e-4)


def test_a_shared_table_exists_once_and_learns_from_all_its_features() -> None:
    ranker, batch = make_ranker(make_config("history_din")), make_batch(make_config("history_din"))
    tables = ranker.inputs.embeddings.tables
    assert sorted(name for name, _ in tables.named_parameters()) == [
        "hour.weight",
        "post.weight",
        "watched/attributes/action.weight",
    ]
    assert len(list(ranker.parameters())) == len({p.data_ptr() for p in ranker.parameters() if p.numel()})
    table = tables.named("post")
    assert isinstance(table, nn.Embedding)
    batch = batch.rows(torch.tensor([0, 1]))  # few rows, so that some codes are only candidates, some only watched
    candidates = set(batch.discrete[:, 1:3].flatten().tolist())
    lengths, ids = batch.histories["watched/length"], batch.histories["watched/ids"]
    watched = {code for row, length in zip(ids, lengths, strict=True) for code in row[:length].flatten().tolist()}
    assert candidates - watched
    assert watched - candidates
    ranker.eval()(batch).logits.sum().backward()
    assert table.weight.grad is not None
    assert set(table.weight.grad.abs().sum(dim=1).nonzero().flatten().tolist()) == candidates | watched


def scores(ranker: Ranker, batch: Batch) -> Tensor:
    logits: Tensor = ranker.eval()(batch).logits
    return logits


@pytest.mark.parametrize("name", ENCODERS)
def test_padding_never_changes_the_logits_of_a_ranker(name: str) -> None:
    config = make_config(f"history_{name}")
    ranker, batch = make_ranker(config), make_batch(config)
    mask = torch.arange(5) < batch.histories["watched/length"][:, None]
    expected = scores(ranker, batch)
    for key, tensor in batch.histories.items():
        if key != "watched/length":
            filled = torch.where(mask if tensor.dim() == 2 else mask[..., None], tensor, 1)
            batch = Batch(**{**vars(batch), "histories": {**batch.histories, key: filled}})
    assert torch.equal(scores(ranker, batch), expected)


def test_an_event_with_an_unknown_id_counts() -> None:
    ranker, batch = make_ranker(make_config("history_pooling_mean")), make_batch(make_config("history_pooling_mean"))
    ids, lengths = batch.histories["watched/ids"].clone(), batch.histories["watched/length"]
    ids[:, 0] = 0  # the row of unknown ids starts at zero, so the mean moves towards zero
    without = {**batch.histories, "watched/ids": ids}
    assert lengths.max() == 5
    assert not torch.allclose(scores(ranker, Batch(**{**vars(batch), "histories": without})), scores(ranker, batch))


def test_numbers_of_any_magnitude_and_nan_give_finite_logits() -> None:
    config = make_config("history_transformer")
    ranker, batch = make_ranker(config), make_batch(config)
    gaps = batch.histories["watched/attributes/gap"]
    for value in (float("nan"), float("inf"), -float("inf"), 3e38, -3e38):
        filled = {**batch.histories, "watched/attributes/gap": torch.full_like(gaps, value)}
        assert scores(ranker, Batch(**{**vars(batch), "histories": filled})).isfinite().all()


def test_a_transformer_has_the_configured_width_and_layers() -> None:
    config = TransformerConfig(kind="transformer", target="post", width=6, num_layers=1, num_heads=1)
    model = Transformer(config, WIDTH, LENGTH)
    assert model.out_features == 6
    assert len(model.blocks) == 1
