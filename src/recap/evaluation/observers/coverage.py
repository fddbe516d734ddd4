"""The share of values that are unknown or missing, over the rows of an evaluation."""

from recap.data.batch import Batch
from recap.data.coverage import Coverage, Unknown
from recap.data.encoding.encoder import RowEncoder
from recap.distributed import Ranks
from recap.model.scorer import Scores


class UnknownValues:
    """Counts the unknown values of every feature."""

    def __init__(self, encoder: RowEncoder, ranks: Ranks) -> None:
        self.coverage, self._ranks = Coverage(encoder), ranks

    def update(self, batch: Batch, scores: Scores) -> None:
        self.coverage.add(batch)

    def result(self) -> list[Unknown]:
        """The counts of each feature; call it once."""
        self.coverage.all_reduce(self._ranks)
        return self.coverage.result()
