"""The final score: weighted probabilities, shifted so that every score is at least 0."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

EPSILON = 0.001
"""Scores of candidates with a negative sum lie below this, all others at or above it."""


class ScoreFormula:
    """The published formula: S = Σ wᵢ·pᵢ, then a shift that keeps order and puts negative sums last.

    With N = Σ |negative wᵢ| and W = Σ |wᵢ|: W = 0 → max(S, 0); S < 0 → (S + N) / W · 0.001; else S + 0.001.
    """

    def __init__(self, weights: Mapping[str, float], tasks: Sequence[str]) -> None:
        """`weights` by task name; tasks not named count 0."""
        self.weights = torch.tensor([weights.get(task, 0.0) for task in tasks], dtype=torch.float64)  # [T]
        self.negative = -self.weights.clamp(max=0).sum()
        self.total = self.weights.abs().sum()

    def __call__(self, probabilities: Tensor) -> Tensor:
        """Calibrated probabilities, or values of regressions, [B, T] → scores [B] float64, ≥ 0.

        Values are not bound to [0, 1], so a sum may fall below −N: such scores are 0.
        """
        weighted = probabilities.double() @ self.weights  # [B]
        if self.total == 0:
            return weighted.clamp(min=0)
        below = (weighted + self.negative) / self.total * EPSILON
        return torch.where(weighted < 0, below, weighted + EPSILON).clamp(min=0)
