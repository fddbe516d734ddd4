"""The mean weight of each expert for each gate, over the rows of an evaluation."""

import torch
from torch import Tensor

from recap.data.batch import Batch
from recap.distributed import Ranks
from recap.evaluation.result import Gates
from recap.model.ranker import Ranker
from recap.model.score_rows import BLOCK, in_lanes, one_thread, row_multiple
from recap.model.scorer import Scores

_UNIT = 2.0**-30
"""Weights are summed in this unit, as integers, so that sums depend neither on the order of rows nor on the ranks."""


class GateMeans:
    """The mean weight of each expert for each gate; every row counts once."""

    def __init__(self, ranker: Ranker, ranks: Ranks) -> None:
        self._ranker, self._ranks, self._experts = ranker, ranks, ranker.sharing.gates
        self._rows = torch.zeros((), dtype=torch.int64)
        self._sums = {gate: torch.zeros(len(names), dtype=torch.int64) for gate, names in self._experts.items()}

    def update(self, batch: Batch, scores: Scores) -> None:
        self._rows += len(batch)
        for block in batch.blocks(BLOCK):
            for gate, weights in self._weights(block).items():
                self._sums[gate] += (weights.double() / _UNIT).round().long().sum(dim=0).cpu()

    def _weights(self, block: Batch) -> dict[str, Tensor]:
        """Gate → the weights of each row [B, experts], which depend on the row alone."""
        device = block.continuous.device
        multiple = row_multiple(device)
        padded = block.padded(-(-len(block) // multiple) * multiple)
        with one_thread():
            weights = in_lanes(lambda: self._ranker.gate_weights(padded), device)
        return {gate: of_rows[: len(block)] for gate, of_rows in weights.items()}

    def result(self) -> Gates:
        """NaN without rows."""
        rows, *sums = self._ranks.all_reduce([self._rows, *self._sums.values()])
        means = zip(self._experts.items(), sums, strict=True)
        return {
            gate: dict(zip(names, (total.double() * _UNIT / rows).tolist(), strict=True))
            for (gate, names), total in means
        }
