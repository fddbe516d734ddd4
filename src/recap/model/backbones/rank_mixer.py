"""RankMixer (Zhu et al., arXiv:2507.15551), dense: tokens that exchange parts, each with a feed-forward of its own."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from recap.config.backbones import RankMixerConfig
from recap.errors import ConfigError
from recap.model.layers import linear


class Tokens(nn.Module):
    """The inputs, cut into parts as even as can be, each projected by itself: [B, in_features] → [B, T, width]."""

    def __init__(self, in_features: int, tokens: int, width: int) -> None:
        """Raises ConfigError if there are fewer inputs than tokens."""
        super().__init__()
        if tokens > in_features:
            raise ConfigError(
                f"rank_mixer: num_tokens must be at most the number of inputs, {in_features}; found {tokens}"
            )
        self.parts = [in_features // tokens + (token < in_features % tokens) for token in range(tokens)]
        self.projections = nn.ModuleList(linear(part, width) for part in self.parts)

    def forward(self, inputs: Tensor) -> Tensor:
        """[B, in_features] → [B, T, width]."""
        parts = torch.split(inputs, self.parts, dim=1)
        return torch.stack([project(part) for project, part in zip(self.projections, parts, strict=True)], dim=1)


class TokenLinear(nn.Module):
    """A Linear of its own for each token: [B, T, in_features] → [B, T, out_features]."""

    def __init__(self, tokens: int, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(tokens, in_features, out_features))
        self.bias = nn.Parameter(torch.zeros(tokens, out_features))
        for token in self.weight.unbind():
            nn.init.xavier_uniform_(token)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, T, in_features] → [B, T, out_features]."""
        return (tokens.transpose(0, 1) @ self.weight).transpose(0, 1) + self.bias


class RankMixerLayer(nn.Module):
    """S = LayerNorm(mix(X) + X), then LayerNorm(FFN(S) + S), the FFN of each token its own.

    [B, T, width] → [B, T, width]. Token h of mix(X) joins part h of every token, each of T parts.
    """

    def __init__(self, config: RankMixerConfig) -> None:
        super().__init__()
        tokens, width = config.num_tokens, config.width
        self.mixing_norm = nn.LayerNorm(width)
        self.rise = TokenLinear(tokens, width, config.feed_forward_factor * width)
        self.fall = TokenLinear(tokens, config.feed_forward_factor * width, width)
        self.feed_forward_norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, T, width] → [B, T, width]."""
        heads = torch.unflatten(tokens, 2, (tokens.shape[1], -1))  # [B, T, T, width / T]
        mixed = self.mixing_norm(heads.transpose(1, 2).flatten(2) + tokens)
        output: Tensor = self.feed_forward_norm(self.fall(functional.gelu(self.rise(mixed))) + mixed)
        return output


class RankMixer(nn.Module):
    """Tokens, layers, and the mean of the tokens: [B, in_features] → [B, width]."""

    def __init__(self, config: RankMixerConfig, in_features: int) -> None:
        """Raises ConfigError if there are fewer inputs than tokens."""
        super().__init__()
        self.tokens = Tokens(in_features, config.num_tokens, config.width)
        self.layers = nn.Sequential(*(RankMixerLayer(config) for _ in range(config.num_layers)))
        self.out_features = config.width

    def forward(self, inputs: Tensor) -> Tensor:
        """[B, in_features] → [B, out_features]."""
        output: Tensor = self.layers(self.tokens(inputs)).mean(dim=1)
        return output
