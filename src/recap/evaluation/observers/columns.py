"""Sums over the rows of every value of every column, from which slices and Field-RCE follow.

Only used when asked for: it costs about 0.2 µs for each row and column of 8 tasks. The sums take
bins · `BUCKETS` · tasks · 5 · 8 bytes, at most `MAX_BYTES`; columns beyond are left out, and the result says how many.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Self

import torch
from torch import Tensor

from recap.config.recap import RecapConfig
from recap.data.batch import Batch
from recap.data.encoding.assets import Assets
from recap.data.sample import sampled_batches
from recap.data.stream.source import Source
from recap.distributed import Ranks
from recap.evaluation.metrics.buckets import BUCKETS, bucket_of
from recap.evaluation.metrics.estimate import Estimate
from recap.evaluation.metrics.sums import cross_entropy
from recap.evaluation.observers.bins import Bins
from recap.model.scorer import Scores

MAX_BYTES = 256 << 20
"""Memory of the sums."""
EPSILON = 0.05
"""Share of the mean label, see `field_rce`."""
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
    """Collects `ColumnSums` of the binary tasks that a split evaluates."""

    def __init__(
        self,
        config: RecapConfig,
        split: str,
        bins: Bins,
        ranks: Ranks,
        predictions: Callable[[Scores], Tensor] = attrgetter("calibrated_probabilities"),
    ) -> None:
        """`predictions`: those to sum, [B, T]; default: the calibrated ones."""
        chosen = config.evaluated_tasks(split)
        self.tasks = [task for task in config.tasks if task in chosen and task not in config.regressions]
        self._columns = [config.tasks.index(task) for task in self.tasks]
        self.bins, self.sums = bins, ColumnSums.of(len(bins), len(self.tasks))
        self._predictions, self._ranks, self._rows = predictions, ranks, 0

    def update(self, batch: Batch, scores: Scores) -> None:
        if not self._columns:  # only regressions
            return
        assert batch.labels is not None
        assert batch.weights is not None
        numbers = torch.arange(self._rows, self._rows + len(batch))  # without users, rows are independent
        self._rows += len(batch)
        buckets = bucket_of(numbers if batch.user is None else batch.user.cpu())
        predictions, labels, weights = (
            column[:, self._columns].cpu().double()
            for column in (self._predictions(scores), batch.labels, batch.weights)
        )
        self.sums.add(self.bins.index(batch).cpu(), predictions, labels, weights, buckets)

    def result(self) -> ColumnSums:
        """Of the rows of all ranks; every rank must call it."""
        return ColumnSums(*self._ranks.all_reduce([self.sums.sums, self.sums.counts]))


def bins_of(config: RecapConfig, assets: Assets, source: Source, fields: Sequence[str] | None = None) -> Bins:
    """The bins of the features `fields`, by default of every column whose values have names, of a sample of `source`.

    They are the same on every rank. Columns whose sums do not fit `MAX_BYTES` are left out.
    """
    sample = sampled_batches(source)
    limit = max_bins(len(config.tasks) - len(config.regressions))
    bins = Bins.of(config.features, assets, sample, fields, limit=limit)
    return bins if fields is not None else bins.without_hashed(config.features)


def field_rce(sums: Tensor) -> Tensor:
    """Field-level relative calibration error of the values of one feature: [..., bins, _SUMS, T] → [..., T], ≥ 0.

    Σ over values of W · abs(Σ wp − Σ wy) / (Σ wy + ε·W), over Σ w, with W the weight of a value (Pan et al., WWW 2020,
    arXiv:1905.10713, equation 5). ε, which keeps values without positives finite, is 0.01 there, for click rates of
    about 0.2; here it is `EPSILON` of the mean label, so that rare tasks are measured alike. NaN without positives.
    """
    weight, label, prediction = (sums[..., index, :] for index in (WEIGHT, LABEL, PREDICTION))
    epsilon = EPSILON * label.sum(dim=-2, keepdim=True) / weight.sum(dim=-2, keepdim=True)
    errors = weight * (prediction - label).abs() / (label + epsilon * weight)
    return errors.nan_to_num(0.0).sum(dim=-2) / torch.where(label.sum(dim=-2) > 0, weight.sum(dim=-2), torch.nan)


def field_rce_estimates(sums: Tensor) -> list[Estimate]:
    """The Field-RCE of each task, from the sums of the values of one feature, [bins, BUCKETS, _SUMS, T]."""
    by_bucket = sums.transpose(0, 1)
    whole = by_bucket.sum(dim=0)
    values, replicates = field_rce(whole), field_rce(whole - by_bucket)
    occupied = by_bucket[:, :, WEIGHT].sum(dim=1) > 0  # [BUCKETS, T]
    return [Estimate(value, replicates[occupied[:, task], task].numpy()) for task, value in enumerate(values.tolist())]


def field_estimates(columns: Columns, sums: ColumnSums) -> dict[str, dict[str, Estimate]]:
    """Task → `field_rce_FEATURE` → estimate, of each column."""
    estimates: dict[str, dict[str, Estimate]] = {task: {} for task in columns.tasks}
    for column, start in zip(columns.bins.columns, columns.bins.starts, strict=True):
        by_task = field_rce_estimates(sums.sums[start : start + len(column.bins)])
        for task, estimate in zip(columns.tasks, by_task, strict=True):
            estimates[task][f"field_rce_{column.feature}"] = estimate
    return estimates
