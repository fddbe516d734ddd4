"""The mean weight of each expert for each gate, over the rows of an evaluation."""

import torch

from recap.data.batch import Batch
from recap.distributed import Ranks
from recap.evaluation.result import Gates
from recap.model.ranker import Ranker
from recap.model.scorer import Scores


class GateMeans:
    """The mean weight of each expert for each gate; every row counts once."""

    def __init__(self, ranker: Ranker, ranks: Ranks) -> None:
        self._ranker, self._ranks, self._experts = ranker, ranks, ranker.sharing.gates
        self._rows = torch.zeros((), dtype=torch.float64)
        self._sums = {gate: torch.zeros(len(names), dtype=torch.float64) for gate, names in self._experts.items()}

    def update(self, batch: Batch, scores: Scores) -> None:
        self._rows += len(batch)
        for gate, weights in self._ranker.gate_weights(batch).items():
            self._sums[gate] += weights.double().sum(dim=0).cpu()

    def result(self) -> Gates:
        """NaN without rows."""
        rows, *sums = self._ranks.all_reduce([self._rows, *self._sums.values()])
        means = zip(self._experts.items(), sums, strict=True)
        return {gate: dict(zip(names, (total / rows).tolist(), strict=True)) for (gate, names), total in means}
