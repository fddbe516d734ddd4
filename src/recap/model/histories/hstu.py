"""Hierarchical sequential transduction units (HSTU; Zhai et al., ICML 2024, arXiv:2402.17152) with candidates apart."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from recap.config.histories import HstuConfig
from recap.model.histories.encoder import CandidateEncoder, Encoded, padding_mask
from recap.model.layers import Dropout, drop_rates, linear, product

_BIAS_DEVIATION = 0.02
_BUCKETS, _BUCKET_LOG = 128, 0.301
_HIDDEN = -1e4
"""A bias whose SiLU, and the derivative of that, are 0 in every precision."""


class _Unit(nn.Module):
    """X + f₂(Norm(A V) ⊙ U) with [U, V, Q, K] = SiLU(f₁(Norm X)) and A = SiLU(Q Kᵀ + rab) / n: […, N, W] → […, N, W].

    Equations 1 to 3 of the paper. rab is the bias of the distance between two tokens plus that of the time between
    them, and n the number of tokens of the row.
    """

    def __init__(self, config: HstuConfig, tokens: int, drop_rate: float) -> None:
        """`tokens`: the largest number of them before the candidate."""
        super().__init__()
        self.heads = config.num_heads
        self.norm, self.mixed_norm = nn.LayerNorm(config.width), nn.LayerNorm(config.width)
        self.split, self.joined = linear(config.width, 4 * config.width), linear(config.width, config.width)
        self.positions = nn.Parameter(torch.empty(tokens + 1).normal_(std=_BIAS_DEVIATION))
        times = torch.empty(_BUCKETS).normal_(std=_BIAS_DEVIATION) if config.ages is not None else None
        self.times = nn.Parameter(times) if times is not None else None
        self.dropout = Dropout(drop_rate)

    def parts(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """[B, N, W] → U [B, N, W], and V, Q and K, [B, heads, N, W / heads] each."""
        gates, values, queries, keys = functional.silu(self.split(self.norm(tokens))).chunk(4, dim=2)
        return gates, self._by_head(values), self._by_head(queries), self._by_head(keys)

    def bias(self, distances: Tensor, buckets: Tensor | None, visible: Tensor) -> Tensor:
        """rab of pairs of tokens, `_HIDDEN` where they are not `visible`; shapes that broadcast."""
        bias = _at(self.positions, distances)
        if self.times is not None:
            assert buckets is not None
            bias = bias + _at(self.times, buckets)
        return torch.where(visible, bias, _HIDDEN)

    def after_attention(self, tokens: Tensor, gates: Tensor, mixed: Tensor) -> Tensor:
        """`mixed`: A V, [B, N, W] like the others → [B, N, W]."""
        added: Tensor = self.joined(self.dropout(self.mixed_norm(mixed) * gates))
        return tokens + added

    def _by_head(self, tokens: Tensor) -> Tensor:
        rows, count, width = tokens.shape
        return tokens.reshape(rows, count, self.heads, width // self.heads).transpose(1, 2)


class Hstu(CandidateEncoder):
    """Events attend to themselves and earlier events, the candidate to all and to itself; its token is the output.

    No event attends to a candidate, and no candidate to another, so the events are the same for every candidate. The
    last unit therefore computes no tokens of events, only their keys and values. Norm X is of the authors' program;
    this differs from it:

    - f₁ has a bias, as in the paper, norms have weights, and the output passes a LayerNorm.
    - Sums are divided by the number of tokens of the row, not by the largest number, so that a result does not depend
      on `max_length`.
    - The time is that between two tokens, not to the event after the one that attends, which it predicts there.
    """

    def __init__(self, config: HstuConfig, width: int, max_length: int) -> None:
        super().__init__()
        self.project = linear(width, config.width)
        tokens = max_length if config.interleave is None else 2 * max_length
        units = [_Unit(config, tokens, rate) for rate in drop_rates(config.dropout, config.num_layers)]
        self.units = nn.ModuleList(units)
        self.norm = nn.LayerNorm(config.width)
        self.has_ages = config.ages is not None
        self.out_features = config.width

    def forward(self, events: Tensor, lengths: Tensor, target: Tensor | None, ages: Tensor | None = None) -> Tensor:
        assert target is not None
        return self._attend(self._encode(events, lengths, ages), target[:, None])[:, 0]

    def encode(self, events: Tensor, ages: Tensor | None = None) -> Encoded:
        """1 / n, and in every unit the keys and values of the events and the bias of a candidate for them."""
        lengths = torch.full((1,), len(events), device=events.device)
        return self._encode(events[None], lengths, ages[None] if ages is not None else None)

    def attend(self, encoded: Encoded, targets: Tensor) -> Tensor:
        return self._attend(encoded, targets[None])[0]

    def _encode(self, events: Tensor, lengths: Tensor, ages: Tensor | None) -> Encoded:
        """As `forward` → 1 / n [B], then by unit keys and values [B, heads, L, W / heads] and biases [B, L]."""
        tokens = self.project(events)  # [B, L, W]
        share = 1 / (lengths + 1).float()  # [B]
        indices = torch.arange(events.shape[1], device=events.device)
        from_newest = (lengths[:, None] - indices).clamp(min=0)  # [B, L]
        distances = (indices[:, None] - indices).clamp(min=0)  # [L, L]
        mask = padding_mask(events, lengths)  # [B, L]
        visible = (indices[:, None] >= indices) & mask[:, None]  # [B, L, L]
        since = between = None
        if self.has_ages:
            assert ages is not None
            since, between = _buckets(ages), _buckets(ages[:, None] - ages[:, :, None])  # [B, L], [B, L, L]
        encoded = [share]
        for unit in self._units:
            gates, values, queries, keys = unit.parts(tokens)
            encoded += [keys, values, unit.bias(from_newest, since, mask)]
            if unit is not self.units[-1]:
                bias = unit.bias(distances, between, visible)[:, None]  # [B, 1, L, L]
                scores = functional.silu(product(queries, keys.transpose(2, 3)) + bias) * share[:, None, None, None]
                mixed = product(scores.to(values.dtype), values)  # [B, heads, L, W / heads]
                tokens = unit.after_attention(tokens, gates, mixed.transpose(1, 2).flatten(2))
        return tuple(encoded)

    def _attend(self, encoded: Sequence[Tensor], targets: Tensor) -> Tensor:
        """What `_encode` returned for B rows, and N candidates of each, [B, N, E] → [B, N, W].

        The candidates are in the last dimension of every product.
        """
        share = encoded[0][:, None, None, None]
        tokens = self.project(targets)
        for index, unit in enumerate(self._units):
            keys, values, bias = encoded[3 * index + 1 : 3 * index + 4]
            gates, *of_candidates = unit.parts(tokens)
            value, query, key = (part.transpose(2, 3) for part in of_candidates)  # [B, heads, W / heads, N]
            scores = functional.silu(keys @ query + bias[:, None, :, None]) * share  # [B, heads, L, N]
            itself = unit.bias(*self._no_distance(bias))
            own = functional.silu((query * key).sum(dim=2, keepdim=True) + itself) * share  # [B, heads, 1, N]
            mixed = values.transpose(2, 3) @ scores.to(values.dtype) + own.to(value.dtype) * value
            tokens = unit.after_attention(tokens, gates, mixed.flatten(1, 2).transpose(1, 2))
        output: Tensor = self.norm(tokens)
        return output

    @staticmethod
    def _no_distance(like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The arguments of `_Unit.bias` for a token and itself, [1] each."""
        nothing = torch.zeros(1, dtype=torch.int64, device=like.device)
        return nothing, nothing, nothing == 0

    @property
    def _units(self) -> Iterator[_Unit]:
        return (unit for unit in self.units if isinstance(unit, _Unit))


def _buckets(seconds: Tensor) -> Tensor:
    """⌊ln(max(seconds, 1)) / 0.301⌋, at most 127: the buckets of time of the paper's code, of any shape."""
    return (seconds.clamp(min=1.0).log() / _BUCKET_LOG).clamp(max=_BUCKETS - 1).long()


def _at(table: Tensor, indices: Tensor) -> Tensor:
    """The numbers of `table` [n] at `indices`, of any shape. Its gradient is summed faster than that of `table[…]`."""
    return functional.embedding(indices, table[:, None])[..., 0]
