"""RankMixer (Zhu et al., arXiv:2507.15551): tokens exchange parts, and each has its own FFN, or several experts."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from recap.config.backbones import RankMixerConfig, SparseExpertsConfig
from recap.errors import ConfigError
from recap.model.layers import initialize, linear, product


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
            initialize(token, transposed=True)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, in_features] → [B, N, out_features]."""
        return product(tokens.transpose(0, 1), self.weight).transpose(0, 1) + self.bias


class SparseExperts(nn.Module):
    """Σⱼ Gⱼ(s) · FFNⱼ(s) for every token s, with the gates G = ReLU(h(s)): [B, N, width] → [B, N, width].

    There are two h, as in the paper: `training_gate`, so that every expert learns from many rows, and `gate`, the one
    of evaluation, where most gates are 0. In training a row is mixed by either, at random. The penalty λ Σ G, over
    tokens and experts, is on the gates of evaluation alone; λ is `penalty_weight` times the share of them above 0 in
    excess of `active_share`, so that it ends where that share is reached.
    """

    def __init__(self, config: SparseExpertsConfig, tokens: int, width: int, hidden: int) -> None:
        super().__init__()
        self.experts, self.active_share = config.num_experts, config.active_share
        self.penalty_weight = config.penalty_weight
        self.up = TokenLinear(tokens * config.num_experts, width, hidden)
        self.down = TokenLinear(tokens * config.num_experts, hidden, width)
        self.training_gate = TokenLinear(tokens, width, config.num_experts)
        self.gate = TokenLinear(tokens, width, config.num_experts)
        self._penalty: Tensor | None = None

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, width] → [B, N, width]."""
        gates = self.gate(tokens).relu()  # [B, N, experts]
        if self.training:
            excess = ((gates > 0).float().mean() - self.active_share).relu()
            self._penalty = self.penalty_weight * excess * gates.sum(dim=(1, 2))
            by_training_gate = torch.rand(len(gates), 1, 1, device=gates.device) < 0.5
            gates = torch.where(by_training_gate, self.training_gate(tokens).relu(), gates)
        repeated = tokens.repeat_interleave(self.experts, dim=1)  # [B, N · experts, width]
        outputs = torch.unflatten(self.down(functional.gelu(self.up(repeated))), 1, gates.shape[1:])
        mixture: Tensor = (outputs * gates.unsqueeze(3)).sum(dim=2)
        return mixture

    def take_penalty(self) -> Tensor | None:
        """The penalty of the last forward pass in training for each of its rows, [B]; None if there was none since."""
        penalty, self._penalty = self._penalty, None
        return penalty


class RankMixerLayer(nn.Module):
    """S = LayerNorm(mix(X) + X), then LayerNorm(FFN(S) + S) with one FFN per token: [B, N, width] → [B, N, width].

    Every token is cut into N parts; token h of mix(X) joins part h of every token. `SparseExperts` replaces FFN if the
    configuration asks for them.
    """

    def __init__(self, config: RankMixerConfig) -> None:
        super().__init__()
        tokens, width = config.num_tokens, config.width
        self.mixing_norm = nn.LayerNorm(width)
        hidden = config.feed_forward_factor * width
        if config.experts is None:
            self.up = TokenLinear(tokens, width, hidden)
            self.down = TokenLinear(tokens, hidden, width)
        self.experts = SparseExperts(config.experts, tokens, width, hidden) if config.experts is not None else None
        self.feed_forward_norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, width] → [B, N, width]."""
        heads = torch.unflatten(tokens, 2, (tokens.shape[1], -1))  # [B, N, N, width / N]
        mixed = self.mixing_norm(heads.transpose(1, 2).flatten(2) + tokens)
        fed = self.down(functional.gelu(self.up(mixed))) if self.experts is None else self.experts(mixed)
        output: Tensor = self.feed_forward_norm(fed + mixed)
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
