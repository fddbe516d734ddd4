"""An ensemble of MLPs that share most weights (TabM: Gorishniy et al., ICLR 2025, arXiv:2410.24210).

The M members of a row follow each other: [B · M, features] holds member 1 of row 1, member 2 of row 1, …
"""

import torch
from torch import Tensor, nn

from recap.model.layers.linear import initialize, linear, product


class EnsembleLinear(nn.Module):
    """s ⊙ (W (r ⊙ x)) + b, with r, s and b of each member, and W of all (BatchEnsemble, arXiv:2002.06715).

    The first layer reads [B, in_features] and its r start at ±1, drawn at random, which is what makes members differ;
    all other r and s start at 1. → [B · M, out_features].
    """

    def __init__(self, in_features: int, out_features: int, members: int, *, is_first: bool) -> None:
        super().__init__()
        self.linear = linear(in_features, out_features, bias=False)
        signs = torch.randint(0, 2, (members, in_features)) * 2.0 - 1
        self.input_scales = nn.Parameter(signs if is_first else torch.ones(members, in_features))  # r
        self.output_scales = nn.Parameter(torch.ones(members, out_features))  # s
        self.bias = nn.Parameter(torch.zeros(members, out_features))
        self.is_first = is_first

    def forward(self, inputs: Tensor) -> Tensor:
        """[B, in_features] for the first layer, else [B · M, in_features] → [B · M, out_features]."""
        members = len(self.bias)
        rows = inputs.unsqueeze(1) if self.is_first else torch.unflatten(inputs, 0, (-1, members))
        products = torch.unflatten(self.linear((rows * self.input_scales).flatten(0, 1)), 0, (-1, members))
        output: Tensor = (products * self.output_scales + self.bias).flatten(0, 1)
        return output


class EnsembleOutput(nn.Module):
    """A Linear of each member to its logit: [B · M, in_features] → [B, M] float32, also under autocast."""

    def __init__(self, in_features: int, members: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(members, in_features, 1))
        self.bias = nn.Parameter(torch.zeros(members))
        for weight in self.weight.unbind():
            initialize(weight, transposed=True)

    def forward(self, inputs: Tensor) -> Tensor:
        if not torch.is_autocast_enabled(inputs.device.type):
            return self._logits(inputs)
        with torch.autocast(inputs.device.type, enabled=False):
            return self._logits(inputs.float())

    def _logits(self, inputs: Tensor) -> Tensor:
        by_member = torch.unflatten(inputs, 0, (-1, len(self.bias))).transpose(0, 1)  # [M, B, in_features]
        return product(by_member, self.weight).squeeze(2).T + self.bias
