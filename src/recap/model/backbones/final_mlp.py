"""FinalMLP (Mao et al., AAAI 2023, arXiv:2304.00902): two MLP streams that select their inputs, fused bilinearly.

Gates read all inputs, the embeddings of chosen features, or a learned vector.
"""

from typing import assert_never

import torch
from torch import Tensor, nn

from recap.config.backbones import FinalMlpConfig, GateConfig, InputsGateConfig, LearnedGateConfig
from recap.model.inputs.layout import InputLayout
from recap.model.layers import Mlp, initialize, linear, product


class InputsGate(nn.Module):
    """inputs ⊙ 2σ(MLP(context)); the context is all inputs, or the embeddings of chosen features."""

    def __init__(self, config: InputsGateConfig, layout: InputLayout) -> None:
        super().__init__()
        self.columns = [slice(0, layout.width)] if config.features is None else layout.columns_of(config.features)
        width = sum(part.stop - part.start for part in self.columns)
        self.mlp = Mlp(width, [*config.hidden_sizes, layout.width])

    def forward(self, inputs: Tensor) -> Tensor:
        """[B, in_features] → [B, in_features]."""
        context = torch.cat([inputs[:, part] for part in self.columns], dim=1)
        output: Tensor = inputs * (2 * self.mlp(context).sigmoid())
        return output


class LearnedGate(nn.Module):
    """inputs ⊙ 2σ(MLP(v)), where v is a learned vector, the same for every row."""

    def __init__(self, config: LearnedGateConfig, in_features: int) -> None:
        super().__init__()
        # Not zeros: with hidden layers whose biases are zero, neither v nor their weights would ever get a gradient.
        self.context = nn.Parameter(torch.randn(1, config.context_size))
        self.mlp = Mlp(config.context_size, [*config.hidden_sizes, in_features])

    def forward(self, inputs: Tensor) -> Tensor:
        """[B, in_features] → [B, in_features]."""
        output: Tensor = inputs * (2 * self.mlp(self.context).sigmoid())
        return output


class BilinearFusion(nn.Module):
    """w₀ + Σ over heads h of w₁ₕᵀ o₁ₕ + w₂ₕᵀ o₂ₕ + o₁ₕᵀ Wₕ o₂ₕ, for each of `size` outputs."""

    def __init__(self, first: int, second: int, heads: int, size: int) -> None:
        """`first` and `second`: widths of the two streams, each a multiple of `heads`."""
        super().__init__()
        self.heads, self.size = heads, size
        self.first = linear(first, size)  # Σ over heads of products of parts = one product
        self.second = linear(second, size, bias=False)
        self.product = nn.Parameter(torch.empty(heads, first // heads, size * (second // heads)))
        for head in self.product.unbind():
            initialize(head, transposed=True)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """[B, first] and [B, second] → [B, size]."""
        left = torch.unflatten(first, 1, (self.heads, -1)).transpose(0, 1)  # [heads, B, first / heads]
        right = torch.unflatten(second, 1, (self.heads, 1, -1)).transpose(0, 1)  # [heads, B, 1, second / heads]
        products = torch.unflatten(product(left, self.product), 2, (self.size, -1))  # [heads, B, size, second / heads]
        products = products * right
        output: Tensor = self.first(first) + self.second(second) + products.sum(dim=(0, 3))
        return output


class FinalMlp(nn.Module):
    """Two gated MLP streams and their fusion: [B, layout.width] → [B, fusion_size]."""

    def __init__(self, config: FinalMlpConfig, layout: InputLayout, first: Mlp, second: Mlp) -> None:
        super().__init__()
        self.first = nn.Sequential(_build_gate(config.first.gate, layout), first)
        self.second = nn.Sequential(_build_gate(config.second.gate, layout), second)
        self.fusion = BilinearFusion(first.out_features, second.out_features, config.num_heads, config.fusion_size)
        self.out_features = config.fusion_size

    def forward(self, inputs: Tensor) -> Tensor:
        """[B, in_features] → [B, out_features]."""
        output: Tensor = self.fusion(self.first(inputs), self.second(inputs))
        return output


def _build_gate(config: GateConfig | None, layout: InputLayout) -> nn.Module:
    match config:
        case None:
            return nn.Identity()
        case InputsGateConfig():
            return InputsGate(config, layout)
        case LearnedGateConfig():
            return LearnedGate(config, layout.width)
        case _:
            assert_never(config)
