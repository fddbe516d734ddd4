"""The activations of an MLP."""

from typing import assert_never

import torch
from torch import Tensor, nn

from recap.config.network import Activation


class Dice(nn.Module):
    """p · x + (1 − p) · α · x with p = σ((x − mean) / √(variance + ε)): [B, features] → [B, features].

    Zhou et al., KDD 2018, arXiv:1706.06978, equation 3. Mean and variance are those of the micro-batch, in evaluation
    the running ones; α, one for each feature, is learned and starts at 0.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(features, eps=1e-8, affine=False)
        self.slope = nn.Parameter(torch.zeros(features))

    def forward(self, inputs: Tensor) -> Tensor:
        share = self.norm(inputs).sigmoid()
        output: Tensor = inputs * (share + (1 - share) * self.slope)
        return output


def build_activation(kind: Activation, features: int) -> nn.Module:
    """[B, features] → [B, features]."""
    match kind:
        case "relu":
            return nn.ReLU()
        case "leaky_relu":
            return nn.LeakyReLU()
        case "prelu":
            return nn.PReLU(features)
        case "dice":
            return Dice(features)
        case "gelu":
            return nn.GELU()
        case "silu":
            return nn.SiLU()
        case "tanh":
            return nn.Tanh()
        case _:
            assert_never(kind)
