"""The predictions and labels of a split, in bounded memory."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recap.data.batch import Batch
from recap.data.stream.batch_stream import BatchStream
from recap.distributed import ONE_RANK, Ranks
from recap.errors import DataError
from recap.evaluation.metrics.buckets import bucket_of
from recap.evaluation.over_ranks import evaluate_over_ranks
from recap.model.calibration import logits_of
from recap.model.scorer import Scorer, Scores

MAX_ROWS = 1_000_000
"""Rows that are held; of a larger split a fair sample."""
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SplitRows:
    """N rows of a split, tasks in the order of `model.tasks`."""

    total: int
    """Rows of the split, of which these are a fair sample if there are more."""
    probabilities: Tensor  # [N, T] float32, corrected for down-sampling, before any fitted calibration
    labels: Tensor  # [N, T] float32
    weights: Tensor  # [N, T] float32
    users: Tensor  # [N] int64; without users, numbers of rows
    codes: Mapping[str, Tensor]
    """Discrete feature → its codes [N] int64."""

    @property
    def buckets(self) -> Tensor:
        """[N] int64, of the users."""
        return bucket_of(self.users)

    def __len__(self) -> int:
        return len(self.users)

    @property
    def is_sample(self) -> bool:
        """Whether rows of the split are missing."""
        return len(self) < self.total

    def select(self, mask: Tensor) -> "SplitRows":
        """The rows where `mask` [N] is true."""
        codes = {feature: of_feature[mask] for feature, of_feature in self.codes.items()}
        probabilities, labels, weights = (columns[mask] for columns in (self.probabilities, self.labels, self.weights))
        return SplitRows(int(mask.sum()), probabilities, labels, weights, self.users[mask], codes)

    def of_task(self, task: int) -> "TaskRows":
        """The rows that have a label and a weight for the task in column `task`."""
        weights = self.weights[:, task].double()
        counted = weights > 0
        return TaskRows(
            logits_of(self.probabilities[counted, task]).numpy(),
            self.labels[counted, task].double().numpy(),
            weights[counted].numpy(),
            counted,
        )


@dataclass(frozen=True)
class Count:
    """A number of weighted rows."""

    rows: int
    effective: int
    """The number of rows of equal weight that tell as much: (Σ w)² / Σ w² (Kish 1965)."""

    @classmethod
    def of(cls, weights: Floats) -> "Count":
        """The count of rows with these weights > 0."""
        return cls(len(weights), round(float(weights.sum() ** 2 / (weights**2).sum())) if len(weights) else 0)

    def __str__(self) -> str:
        by_weight = f" (by their weights, as good as {self.effective:,})" if self.effective != self.rows else ""
        return f"{self.rows:,}{by_weight}"


@dataclass(frozen=True)
class TaskRows:
    """The rows of one task, as `fit` takes them."""

    logits: Floats  # [n]
    labels: Floats  # [n]
    weights: Floats  # [n]
    mask: Tensor
    """[N] bool, which rows of the split these are."""

    @property
    def positives(self) -> Count:
        """Positive rows."""
        return Count.of(self.weights[self.labels == 1])

    @property
    def negatives(self) -> Count:
        """Negative rows."""
        return Count.of(self.weights[self.labels != 1])


def collect_rows(
    scorer: Scorer, stream: BatchStream, columns: Mapping[str, int], ranks: Ranks = ONE_RANK
) -> SplitRows | None:
    """All rows of `stream`, or a fair sample of `MAX_ROWS`; each rank scores a share, and None on all but rank 0.

    `scorer`: without a fitted calibration. `columns`: feature → its column of `Batch.discrete`, for the codes to hold.
    Raises DataError without rows.
    """
    collector = RowCollector(columns)
    evaluate_over_ranks(scorer, stream, ranks, [], [collector], features=bool(columns))
    if not ranks.is_first:
        return None
    if not collector.total:
        raise DataError("the split has no rows")
    return collector.result()


class RowCollector:
    """Holds the rows with the smallest of one random number per row, so that each row has the same chance."""

    def __init__(self, columns: Mapping[str, int]) -> None:
        """`columns`: as `collect_rows`."""
        self.total = 0
        self._columns = dict(columns)
        self._random = torch.Generator().manual_seed(0)
        self._parts: list[tuple[Tensor, ...]] = []

    def update(self, batch: Batch, scores: Scores) -> None:
        """Add the rows of `batch`."""
        assert batch.labels is not None
        assert batch.weights is not None
        rows = len(batch)
        users = torch.arange(self.total, self.total + rows) if batch.user is None else batch.user
        codes = [batch.discrete[:, column] for column in self._columns.values()]
        columns = (scores.calibrated_probabilities, batch.labels, batch.weights, users, *codes)
        keys = torch.rand(rows, generator=self._random, dtype=torch.float64)
        self.total += rows
        # Clones, since readers reuse the memory of batches.
        self._parts.append((keys, *(column.cpu().clone() for column in columns)))
        if sum(len(part[0]) for part in self._parts) > 2 * MAX_ROWS:
            self._reduce()

    def _reduce(self) -> None:
        keys, *columns = map(torch.cat, zip(*self._parts, strict=True))
        if len(keys) > MAX_ROWS:
            rows = keys.topk(MAX_ROWS, largest=False).indices.sort().values
            keys, columns = keys[rows], [column[rows] for column in columns]
        self._parts = [(keys, *columns)]

    def result(self) -> SplitRows:
        """The rows, in the order of the stream; at least one was added."""
        self._reduce()
        _, probabilities, labels, weights, users, *codes = self._parts[0]
        return SplitRows(
            self.total, probabilities, labels, weights, users, dict(zip(self._columns, codes, strict=True))
        )
