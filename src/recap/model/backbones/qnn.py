"""QNN-α (Li et al., arXiv:2505.17999): quadratic layers whose product is a Khatri–Rao product, activated in the middle.

The Khatri–Rao product of x, [1, width], and h, [R, width], has the rows hᵣ ⊙ x, and a layer adds them up. Each column
is multiplied with itself alone, so that heads would only change the order of columns, and there are none.
"""

import torch
from torch import Tensor, nn

from recap.config.backbones import QnnConfig
from recap.model.layers import Dropout, batch_norm, linear


class QuadraticLayer(nn.Module):
    """x + Σᵣ hᵣ ⊙ x with h = ReLU(BatchNorm(W x + b)): [B, width] → [B, width]."""

    def __init__(self, config: QnnConfig, width: int) -> None:
        super().__init__()
        self.rows = config.num_rows
        features = config.num_rows * width
        self.linear = linear(width, features)
        self.norm = batch_norm(config.batch_norm, features) if config.batch_norm is not None else nn.Identity()
        self.dropout = Dropout(config.dropout_rate)

    def forward(self, inputs: Tensor) -> Tensor:
        """[B, width] → [B, width]."""
        factors = self.dropout(self.norm(self.linear(inputs)).relu())
        factors = torch.unflatten(factors, 1, (self.rows, -1))  # [B, R, width]
        output: Tensor = self.dropout(factors.sum(dim=1) * inputs + inputs)
        return output


class Qnn(nn.Module):
    """Quadratic layers one after another: [B, in_features] → [B, in_features]. n layers have degree 2ⁿ."""

    def __init__(self, config: QnnConfig, in_features: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(QuadraticLayer(config, in_features) for _ in range(config.num_layers)))
        self.out_features = in_features

    def forward(self, inputs: Tensor) -> Tensor:
        """[B, in_features] → [B, out_features]."""
        output: Tensor = self.layers(inputs)
        return output
