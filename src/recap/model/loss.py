"""The training loss: weighted binary cross entropy of each task, kept apart by task."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits


class MultiTaskLoss(nn.Module):
    """Losses by task; what training minimises is their mean over the tasks (Σ / T), as published.

    Each is the mean over the B rows of weight · BCE, with positives counted `pos_weight` times. It is divided by B, not
    by the sum of weights, so the losses of micro-batches, each times its share of the rows, add up to the batch's.
    """

    def __init__(self, pos_weights: Sequence[float]) -> None:
        """`pos_weights` in the order of tasks."""
        super().__init__()
        self.pos_weights: Tensor
        self.register_buffer("pos_weights", torch.tensor(pos_weights), persistent=False)  # [T]

    def forward(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        """[B, T] each, float32 → [T] float32."""
        losses = binary_cross_entropy_with_logits(
            logits, labels, weight=weights, pos_weight=self.pos_weights, reduction="none"
        )  # [B, T]
        return losses.mean(dim=0)
