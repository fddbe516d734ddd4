"""RankMixer (Zhu et al., arXiv:2507.15551), without experts: tokens exchange parts, and each has its own FFN."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from recap.config.backbones import RankMixerConfig
from recap.errors import ConfigError
from recap.model.layers import linear, product


class Tokens(nn.Module):
    """The inputs cut into N nearly equal parts, each with its own projection: [B, in_features] → [B, N, width]."""

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
        """[B, in_features] → [B, N, width]."""
        parts = torch.split(inputs, self.parts, dim=1)
        return torch.stack([project(part) for project, part in zip(self.projections, parts, strict=True)], dim=1)


class TokenLinear(nn.Module):
    """One Linear layer per token: [B, N, in_features] → [B, N, out_features]."""

    def __init__(self, tokens: int, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(tokens, in_features, out_features))
        self.bias = nn.Parameter(torch.zeros(tokens, out_features))
        for token in self.weight.unbind():
            nn.init.xavier_uniform_(token)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, in_features] → [B, N, out_features]."""
        return product(tokens.transpose(0, 1), self.weight).transpose(0, 1) + self.bias


class RankMixerLayer(nn.Module):
    """S = LayerNorm(mix(X) + X), then LayerNorm(FFN(S) + S) with one FFN per token: [B, N, width] → [B, N, width].

    Every token is cut into N parts; token h of mix(X) joins part h of every token.
    """

    def __init__(self, config: RankMixerConfig) -> None:
        super().__init__()
        tokens, width = config.num_tokens, config.width
        self.mixing_norm = nn.LayerNorm(width)
        self.up = TokenLinear(tokens, width, config.feed_forward_factor * width)
        self.down = TokenLinear(tokens, config.feed_forward_factor * width, width)
        self.feed_forward_norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, width] → [B, N, width]."""
        heads = torch.unflatten(tokens, 2, (tokens.shape[1], -1))  # [B, N, N, width / N]
        mixed = self.mixing_norm(heads.transpose(1, 2).flatten(2) + tokens)
        output: Tensor = self.feed_forward_norm(self.down(functional.gelu(self.up(mixed))) + mixed)
        return output


class RankMixer(nn.Module):
    """Tokens, layers, then the mean over the tokens: [B, in_features] → [B, width]."""

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
