"""Sums over the rows of every value of every column, from which slices and Field-RCE follow.

Only used when asked for: it costs about 70 ns for each row and column of 8 tasks. The sums take
bins · `BUCKETS` · tasks · 5 · 8 bytes, at most `MAX_BYTES`; columns beyond are left out, and the result says how many.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from recap.data.batch import Batch
from recap.distributed import Ranks
from recap.evaluation.metrics.buckets import BUCKETS, bucket_of
from recap.evaluation.metrics.sums import cross_entropy
from recap.evaluation.observers.bins import Bins
from recap.model.scorer import Scores

MAX_BYTES = 256 << 20
"""Memory of the sums."""
WEIGHT, LABEL, PREDICTION, LOSS, VARIANCE = range(5)
"""Σ w, Σ wy, Σ wp, the cross entropy Σ w·ce(p, y), and the variance Σ w²p(1 − p) of Σ wy for independent rows."""
_SUMS = 5


def max_bins(tasks: int) -> int:
    """The number of bins whose sums fit `MAX_BYTES`."""
    return MAX_BYTES // (BUCKETS * max(tasks, 1) * _SUMS * 8)


@dataclass(frozen=True, eq=False)
class ColumnSums:
    """Sums of each bin and bucket of users, for T binary tasks; they do not depend on the order of rows.

    `add` takes labels and weights of rows; the rows of two parts are merged by adding their sums.
    """

    sums: Tensor
    """[bins, BUCKETS, _SUMS, T] float64."""
    counts: Tensor
    """[bins, 2, T] float64: rows with a weight, and the positives among them."""

    @classmethod
    def of(cls, bins: int, tasks: int) -> Self:
        """Sums of no rows."""
        return cls(torch.zeros(bins, BUCKETS, _SUMS, tasks).double(), torch.zeros(bins, 2, tasks).double())

    def add(self, index: Tensor, predictions: Tensor, labels: Tensor, weights: Tensor, buckets: Tensor) -> None:
        """Add rows: `index` [columns, B] int64 of bins, `buckets` [B] int64, the others [B, T] float64."""
        weighted = torch.stack(
            [
                weights,
                weights * labels,
                weights * predictions,
                weights * cross_entropy(predictions, labels),
                weights.square() * predictions * (1 - predictions),
            ],
            dim=1,
        ).flatten(1)  # [B, _SUMS · T]
        counted = (weights > 0).double()
        rows = torch.stack([counted, counted * labels], dim=1).flatten(1)  # [B, 2 · T]
        sums, counts = self.sums.view(-1, weighted.shape[1]), self.counts.view(-1, rows.shape[1])
        for column in index:
            sums.index_add_(0, column * BUCKETS + buckets, weighted)
            counts.index_add_(0, column, rows)

    def merge(self, other: Self) -> None:
        """Add the rows of `other`."""
        self.sums.add_(other.sums)
        self.counts.add_(other.counts)


class Columns:
    """Collects `ColumnSums` of the calibrated predictions."""

    def __init__(self, bins: Bins, tasks: Sequence[int], ranks: Ranks) -> None:
        """`tasks`: the binary tasks to sum, by their columns in `Scores`."""
        self.bins, self.sums = bins, ColumnSums.of(len(bins), len(tasks))
        self._tasks, self._ranks, self._rows = list(tasks), ranks, 0

    def update(self, batch: Batch, scores: Scores) -> None:
        self.add(batch, scores.calibrated_probabilities)

    def add(self, batch: Batch, predictions: Tensor) -> None:
        """Add the rows of `batch` with their predictions [B, T]."""
        assert batch.labels is not None
        assert batch.weights is not None
        numbers = torch.arange(self._rows, self._rows + len(batch))  # without users, rows are independent
        self._rows += len(batch)
        buckets = bucket_of(numbers if batch.user is None else batch.user.cpu())
        rows = (column[:, self._tasks].cpu().double() for column in (predictions, batch.labels, batch.weights))
        self.sums.add(self.bins.index(batch).cpu(), *rows, buckets)

    def result(self) -> ColumnSums:
        return ColumnSums(*self._ranks.all_reduce([self.sums.sums, self.sums.counts]))
