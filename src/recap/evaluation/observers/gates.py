"""How much each gate of a model leans on each expert: mean weights over the rows of an evaluation."""

from collections.abc import Mapping

import torch
from torch import Tensor

from recap.data.batch import Batch
from recap.model.ranker import Ranker

Gates = Mapping[str, Mapping[str, float]]
"""Gate → expert → mean weight; those of a gate sum to 1."""


class GateMeans:
    """Mean weights, every row counted once. Nothing is computed for a model without gates."""

    def __init__(self, ranker: Ranker) -> None:
        self.ranker = ranker
        self.rows = 0
        self.sums: dict[str, Tensor] = {}  # [experts] float64 each

    def update(self, batch: Batch) -> None:
        """Add the rows of `batch`, which is where the ranker is."""
        if not self.ranker.sharing.gates:
            return
        self.rows += len(batch)
        for gate, weights in self.ranker.gate_weights(batch).items():
            total = weights.double().sum(dim=0).cpu()
            self.sums[gate] = self.sums.get(gate, torch.zeros_like(total)) + total

    def compute(self) -> Gates:
        """The means over all rows so far; none of a model without gates, or of no rows."""
        names = self.ranker.sharing.gates
        return {
            gate: dict(zip(names[gate], (total / self.rows).tolist(), strict=True)) for gate, total in self.sums.items()
        }
