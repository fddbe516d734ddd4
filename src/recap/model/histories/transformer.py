"""A causal transformer over the events with the candidate as its last token, as in HSTU's ranking setting and SASRec.

Pre-norm blocks (Xiong et al., arXiv:2002.04745) of attention (Vaswani et al., arXiv:1706.03762).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from recap.config.histories import TransformerConfig
from recap.model.histories.encoder import HistoryEncoder, padding_mask
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
        tokens = tokens + self.dropout(self.joined(mixed.transpose(1, 2).flatten(2)))
        added: Tensor = self.dropout(self.feed_forward(self.feed_forward_norm(tokens)))
        return tokens + added

    def _by_head(self, tokens: Tensor) -> Tensor:
        """[B, N, W] → [B, heads, N, W / heads]."""
        rows, count, width = tokens.shape
        return tokens.reshape(rows, count, self.heads, width // self.heads).transpose(1, 2)


class Transformer(HistoryEncoder):
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

    def forward(self, events: Tensor, lengths: Tensor, target: Tensor | None) -> Tensor:
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
