"""A causal transformer over the events with the candidate as its last token, as in HSTU's ranking setting and SASRec.

Pre-norm blocks (Xiong et al., arXiv:2002.04745) of attention (Vaswani et al., arXiv:1706.03762).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from recap.config.histories import TransformerConfig
from recap.model.histories.encoder import CandidateEncoder, Encoded, padding_mask
from recap.model.layers import Dropout, drop_rates, linear

_POSITION_DEVIATION = 0.02


class _Block(nn.Module):
    """x + attention(LayerNorm x), then x + feed-forward(LayerNorm x): [B, N, W] → [B, N, W]."""

    def __init__(self, width: int, heads: int, drop_rate: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries, self.keys, self.values = linear(width, width), linear(width, width), linear(width, width)
        self.joined = linear(width, width)
        self.feed_forward = nn.Sequential(linear(width, 4 * width), nn.GELU(), linear(4 * width, width))
        self.dropout = Dropout(drop_rate)

    def forward(self, tokens: Tensor, visible: Tensor) -> Tensor:
        """`visible` [B, 1, N, N] bool: which tokens (last axis) each token attends to."""
        normed = self.attention_norm(tokens)
        queries, keys, values = (self._by_head(layer(normed)) for layer in (self.queries, self.keys, self.values))
        mixed = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=visible)
        # [B, heads, N, W / heads]
        return self._after_attention(tokens, mixed.transpose(1, 2).flatten(2))

    def keys_and_values(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """[L, W] → keys and values of the tokens, [heads, L, W / heads] each."""
        normed = self.attention_norm(tokens)[None]
        return self._by_head(self.keys(normed))[0], self._by_head(self.values(normed))[0]

    def attend(self, tokens: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Tokens [N, W], each of which attends to itself and L others, not to each other → [N, W].

        `keys`, `values`: of the others, [heads, L, W / heads].
        """
        normed = self.attention_norm(tokens)[None]
        query, key, value = (  # [heads, W / heads, N]
            self._by_head(layer(normed))[0].transpose(1, 2) for layer in (self.queries, self.keys, self.values)
        )
        itself = (query * key).sum(dim=1, keepdim=True)  # [heads, 1, N]
        similarity = torch.cat([torch.bmm(keys, query), itself], dim=1) / query.shape[1] ** 0.5  # [heads, L + 1, N]
        others, own = similarity.softmax(dim=1).to(values.dtype).tensor_split((keys.shape[1],), dim=1)
        mixed = torch.bmm(values.transpose(1, 2), others) + own * value  # [heads, W / heads, N]
        return self._after_attention(tokens, mixed.flatten(0, 1).T)

    def _after_attention(self, tokens: Tensor, mixed: Tensor) -> Tensor:
        """Tokens and the values they attend to, […, W] both → […, W]."""
        tokens = tokens + self.dropout(self.joined(mixed))
        added: Tensor = self.dropout(self.feed_forward(self.feed_forward_norm(tokens)))
        return tokens + added

    def _by_head(self, tokens: Tensor) -> Tensor:
        """[B, N, W] → [B, heads, N, W / heads]."""
        rows, count, width = tokens.shape
        return tokens.reshape(rows, count, self.heads, width // self.heads).transpose(1, 2)


class Transformer(CandidateEncoder):
    """Events attend to themselves and earlier events, the candidate to all; its token is the output.

    No event attends to the candidate, so the tokens of the events are the same for every candidate. Positions are
    learned and counted from the newest event, so the result does not depend on `max_length`. The candidate has its own
    position.
    """

    def __init__(self, config: TransformerConfig, width: int, max_length: int) -> None:
        super().__init__()
        self.project = linear(width, config.width)
        self.positions = nn.Embedding(max_length + 1, config.width)  # row 0: the candidate, row 1: the newest event
        nn.init.normal_(self.positions.weight, std=_POSITION_DEVIATION)
        blocks = [
            _Block(config.width, config.num_heads, rate) for rate in drop_rates(config.dropout, config.num_layers)
        ]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(config.width)
        self.out_features = config.width

    def forward(self, events: Tensor, lengths: Tensor, target: Tensor | None, ages: Tensor | None = None) -> Tensor:
        assert target is not None
        count = events.shape[1]
        indices = torch.arange(count, device=events.device)
        from_newest = (lengths[:, None] - indices).clamp(min=0)  # [B, L]; 0 for padding, which is masked
        positions = functional.pad(from_newest, (0, 1))  # [B, L + 1]; 0 for the candidate
        tokens = self.project(torch.cat([events, target[:, None]], dim=1)) + self.positions(positions)
        mask = functional.pad(padding_mask(events, lengths), (0, 1), value=True)
        itself = torch.eye(count + 1, dtype=torch.bool, device=events.device)
        causal = torch.ones_like(itself).tril()
        # Padding attends to itself: a token that attends to nothing would be NaN.
        visible = (causal & mask[:, None] | itself)[:, None]  # [B, 1, L + 1, L + 1]
        for block in self.blocks:
            tokens = block(tokens, visible)
        output: Tensor = self.norm(tokens[:, -1])
        return output

    def encode(self, events: Tensor, ages: Tensor | None = None) -> Encoded:
        """The keys and values of the events in every block: 2 · blocks tensors [heads, L, width / heads]."""
        from_newest = torch.arange(len(events), 0, -1, device=events.device)
        tokens = (self.project(events) + self.positions(from_newest))[None]  # [1, L, W]
        causal = torch.ones(1, 1, len(events), len(events), dtype=torch.bool, device=events.device).tril()
        encoded: list[Tensor] = []
        for index, block in enumerate(self._blocks):
            encoded += block.keys_and_values(tokens[0])
            if index < len(self.blocks) - 1 and len(events):
                tokens = block(tokens, causal)
        return tuple(encoded)

    def attend(self, encoded: Encoded, targets: Tensor) -> Tensor:
        tokens = self.project(targets) + self.positions.weight[0]
        for index, block in enumerate(self._blocks):
            tokens = block.attend(tokens, *encoded[2 * index : 2 * index + 2])
        output: Tensor = self.norm(tokens)
        return output

    @property
    def _blocks(self) -> list[_Block]:
        return [block for block in self.blocks if isinstance(block, _Block)]
