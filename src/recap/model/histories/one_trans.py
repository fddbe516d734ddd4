"""OneTrans (Zhang et al., arXiv:2510.26104): the events of a row and its other inputs as tokens of one transformer."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from recap.config.histories import OneTransConfig
from recap.model.backbones.rank_mixer import TokenLinear
from recap.model.histories.encoder import CandidateEncoder, Encoded
from recap.model.layers import Dropout, drop_rates, linear, product

_POSITION_DEVIATION = 0.02
_HIDDEN_FACTOR = 4
_EPSILON = 1e-6


class _RmsNorm(nn.Module):
    """w · x / √(mean x² + ε), […, W] → […, W] float32. Unlike torch's, it does not warn under autocast."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens.float()
        return tokens * (tokens.square().mean(dim=-1, keepdim=True) + _EPSILON).rsqrt() * self.weight


class _Mixed(nn.Module):
    """A linear map with weights of its own for each token that is not an event, and weights that all events share."""

    def __init__(self, tokens: int, in_features: int, out_features: int, *, has_events: bool = True) -> None:
        super().__init__()
        self.own = TokenLinear(tokens, in_features, out_features)
        self.shared = linear(in_features, out_features) if has_events else nn.Identity()


class _Block(nn.Module):
    """Z = X + attention(RMSNorm X), then Z + feed-forward(RMSNorm Z), for events and other tokens."""

    def __init__(self, config: OneTransConfig, drop_rate: float, *, is_last: bool) -> None:
        """`is_last`: no events pass on, so they have keys and values alone."""
        super().__init__()
        tokens, width = config.num_tokens, config.width
        self.heads = config.num_heads
        self.attention_norm, self.feed_forward_norm = _RmsNorm(width), _RmsNorm(width)
        self.keys, self.values = _Mixed(tokens, width, width), _Mixed(tokens, width, width)
        self.queries = _Mixed(tokens, width, width, has_events=not is_last)
        self.joined = _Mixed(tokens, width, width, has_events=not is_last)
        self.up = _Mixed(tokens, width, _HIDDEN_FACTOR * width, has_events=not is_last)
        self.down = _Mixed(tokens, _HIDDEN_FACTOR * width, width, has_events=not is_last)
        self.dropout = Dropout(drop_rate)

    def keys_and_values(self, normed: Tensor) -> tuple[Tensor, Tensor]:
        """Of events, [B, L, W] → [B, heads, L, W / heads] each."""
        return self._by_head(self.keys.shared(normed)), self._by_head(self.values.shared(normed))

    def events(self, retained: Tensor, keys: Tensor, values: Tensor, visible: Tensor) -> Tensor:
        """The retained events [B, K, W], each of which attends to the `visible` [B, 1, K, L] ones → [B, K, W]."""
        queries = self._by_head(self.queries.shared(self.attention_norm(retained)))
        mixed = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=visible)
        retained = retained + self.dropout(self.joined.shared(mixed.transpose(1, 2).flatten(2)))
        hidden = functional.gelu(self.up.shared(self.feed_forward_norm(retained)))
        return retained + self.dropout(self.down.shared(hidden))  # type: ignore[no-any-return]

    def others(self, tokens: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """The other tokens [B, N, n, W] of N candidates: each attends to all events, to itself and those before it.

        `keys`, `values`: of the events, [B, heads, L, W / heads]; `mask` [B, L]: which are events → [B, N, n, W].
        Candidates are in the last dimension of the products with events.
        """
        normed = self.attention_norm(tokens)
        query, key, value = (
            torch.unflatten(self._own(layer, normed), 3, (self.heads, -1)).transpose(2, 3)
            for layer in (self.queries, self.keys, self.values)
        )  # [B, N, heads, n, W / heads]
        candidates, count, width = query.shape[1], query.shape[3], query.shape[4]
        by_event = keys @ query.permute(0, 2, 4, 3, 1).flatten(3)  # [B, heads, L, n · N]
        by_event = by_event.masked_fill(~mask[:, None, :, None], torch.finfo(by_event.dtype).min)
        by_token = product(query, key.transpose(3, 4))  # [B, N, heads, n, n]
        later = torch.ones(count, count, dtype=torch.bool, device=tokens.device).triu(1)
        by_token = by_token.masked_fill(later, torch.finfo(by_token.dtype).min)
        by_token = by_token.permute(0, 2, 4, 3, 1).flatten(3)  # [B, heads, n, n · N]: tokens attended to come first
        weights = (torch.cat([by_event, by_token], dim=2) / width**0.5).softmax(dim=2).to(values.dtype)
        for_events, for_tokens = weights.tensor_split((keys.shape[2],), dim=2)
        mixed = torch.unflatten(values.transpose(2, 3) @ for_events, 3, (count, candidates))  # [B, heads, W / h, n, N]
        own = product(torch.unflatten(for_tokens, 3, (count, candidates)).permute(0, 4, 1, 3, 2), value)
        mixed = mixed.permute(0, 4, 3, 1, 2) + own.transpose(2, 3)  # [B, N, n, heads, W / heads]
        tokens = tokens + self.dropout(self._own(self.joined, mixed.flatten(3)))
        hidden = functional.gelu(self._own(self.up, self.feed_forward_norm(tokens)))
        return tokens + self.dropout(self._own(self.down, hidden))  # type: ignore[no-any-return]

    @staticmethod
    def _own(layer: _Mixed, tokens: Tensor) -> Tensor:
        """[B, N, n, in] → [B, N, n, out]."""
        return torch.unflatten(layer.own(tokens.flatten(0, 1)), 0, tokens.shape[:2])

    def _by_head(self, tokens: Tensor) -> Tensor:
        """[B, L, W] → [B, heads, L, W / heads]."""
        return torch.unflatten(tokens, 2, (self.heads, -1)).transpose(1, 2)


class OneTrans(CandidateEncoder):
    """Events attend to themselves and earlier events; the other tokens to all events and to the tokens before them.

    The other tokens are made of all other inputs of the row, which are the `target`: one Linear, an MLP in the paper
    (Auto-Split), cut into `num_tokens` tokens. They are the output. After every block fewer of the newest events pass
    on, and none after the last one. Events attend to no other token, so they are the same for every candidate. Their
    positions, which the paper does not mention, are learned, counted from the newest.
    """

    def __init__(self, config: OneTransConfig, width: int, max_length: int, row_width: int) -> None:
        super().__init__()
        self.tokens, self.retained = config.num_tokens, config.retained(max_length)
        self.project = linear(width, config.width)
        self.split = linear(row_width, config.num_tokens * config.width)
        self.positions = nn.Embedding(max_length + 1, config.width)  # row 1: the newest event; row 0: padding
        nn.init.normal_(self.positions.weight, std=_POSITION_DEVIATION)
        rates = drop_rates(config.dropout, config.num_layers)
        self.blocks = nn.ModuleList(
            _Block(config, rate, is_last=index == len(rates) - 1) for index, rate in enumerate(rates)
        )
        self.norm = _RmsNorm(config.width)
        self.out_features = config.num_tokens * config.width

    def forward(self, events: Tensor, lengths: Tensor, target: Tensor | None, ages: Tensor | None = None) -> Tensor:
        assert target is not None
        return self._attend(self._encode(events, lengths), target[:, None])[:, 0]

    def encode(self, events: Tensor, ages: Tensor | None = None) -> Encoded:
        """In every block the keys and values of the events that reached it, and which of them are events."""
        return self._encode(events[None], torch.full((1,), len(events), device=events.device))

    def attend(self, encoded: Encoded, targets: Tensor) -> Tensor:
        return self._attend(encoded, targets[None])[0]

    def _encode(self, events: Tensor, lengths: Tensor) -> Encoded:
        """As `forward` → for every block keys and values [B, heads, L, W / heads] and the mask [B, L]."""
        indices = torch.arange(events.shape[1], device=events.device)
        from_newest = lengths[:, None] - indices  # [B, L]; 1 for the newest event, below for padding
        tokens = self.project(events) + self.positions(from_newest.clamp(min=0))
        encoded: list[Tensor] = []
        for block, retained in zip(self._blocks, [*self.retained, 0], strict=True):
            mask = (from_newest > 0) & (from_newest <= lengths[:, None])
            keys, values = block.keys_and_values(block.attention_norm(tokens))
            encoded += [keys, values, mask]
            if block is self.blocks[-1] or (not torch.compiler.is_compiling() and not tokens.shape[1]):
                continue
            chosen, newest = self._newest(from_newest, retained)
            before = from_newest[:, None] >= newest[..., None]  # [B, K, L]
            padding = (newest > lengths[:, None])[..., None]  # attends to all: attention to nothing would be NaN
            tokens = tokens.gather(1, chosen[..., None].expand(-1, -1, tokens.shape[2]))
            tokens = block.events(tokens, keys, values, (before & mask[:, None] | padding)[:, None])
            from_newest = newest
        return tuple(encoded)

    @staticmethod
    def _newest(from_newest: Tensor, retained: int) -> tuple[Tensor, Tensor]:
        """The newest `retained` tokens: where they are, and their places from the newest, [B, K] each.

        Tokens are in order, each one place nearer to the newest than the one before; those that are missing are beyond
        the oldest.
        """
        if not torch.compiler.is_compiling():
            retained = min(retained, from_newest.shape[1])
        newest = torch.arange(retained, 0, -1, device=from_newest.device).expand(from_newest.shape[0], retained)
        return (from_newest[:, :1] - newest).clamp(min=0), newest

    def _attend(self, encoded: Sequence[Tensor], targets: Tensor) -> Tensor:
        """What `_encode` returned for B rows, and the inputs of N candidates of each, [B, N, row] → [B, N, n · W]."""
        tokens = torch.unflatten(self.split(targets), 2, (self.tokens, -1)).float()  # [B, N, n, W]
        for index, block in enumerate(self._blocks):
            tokens = block.others(tokens, *encoded[3 * index : 3 * index + 3])
        output: Tensor = self.norm(tokens).flatten(2)
        return output

    @property
    def _blocks(self) -> Iterator[_Block]:
        return (block for block in self.blocks if isinstance(block, _Block))
