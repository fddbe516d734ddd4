"""Metrics computed from sums over rows: rates, calibration, cross entropy, and the errors of regressions."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from recap.evaluation.metrics.buckets import BUCKETS, BucketSums, Totals

EPSILON = 1e-7
"""Probabilities are clipped to [ε, 1 − ε] before a logarithm; ε is about the resolution of a float32 sigmoid."""


class Sums:
    """Named sums over the rows of each bucket for T tasks, [groups, T] float64 each."""

    def __init__(self, names: Sequence[str], tasks: int, groups: int = BUCKETS) -> None:
        self.by_bucket = {name: torch.zeros(groups, tasks, dtype=torch.float64) for name in names}
        self._shape = (tasks, groups)

    def add(self, values: Mapping[str, Tensor], buckets: Tensor) -> None:
        """Add rows: [B, T] for each name, buckets [B] int64."""
        by_bucket = BucketSums(buckets, *self._shape)
        sums: dict[int, Tensor] = {}
        for name, value in values.items():
            if id(value) not in sums:  # several names may have the same values
                sums[id(value)] = by_bucket(value)
            self.by_bucket[name] += sums[id(value)]

    def merge(self, other: "Sums") -> None:
        """Add the rows of `other`."""
        for name, total in other.by_bucket.items():
            self.by_bucket[name] += total


class BinarySums:
    """count, positives, ctr, pctr, calibration, precision, recall, log_loss, brier, ne and rce of T tasks.

    A row counts as predicted positive where its probability is at least `threshold`: precision is the share of
    positives among those rows, recall the share of all positives that those rows contain. ne is the normalized entropy
    of He et al. (ADKDD 2014): cross entropy over that of always predicting the mean label; rce = 100 · (1 − ne).

    NaN: everything but the counts without rows; ne and rce where all labels are equal; precision without a predicted
    positive; recall without a positive.
    """

    NAMES = ("rows", "positive_rows", "weight", "label", "prediction", "selected", "hits", "cross_entropy", "squared")

    def __init__(self, tasks: int, threshold: float = 0.5, groups: int = BUCKETS) -> None:
        """`groups`: the number of buckets."""
        self.sums, self.threshold = Sums(self.NAMES, tasks, groups), threshold

    def update(self, predictions: Tensor, labels: Tensor, weights: Tensor, buckets: Tensor) -> None:
        """Add rows: probabilities, labels and weights [B, T] float64, buckets [B] int64."""
        weighted = weights * labels
        counted = (weights > 0).double()
        is_plain = torch.equal(counted, weights)  # each row counts once or not at all
        selected = weights * (predictions >= self.threshold)
        self.sums.add(
            {
                "rows": weights if is_plain else counted,
                "positive_rows": weighted if is_plain else counted * labels,
                "weight": weights,
                "label": weighted,
                "prediction": weights * predictions,
                "selected": selected,
                "hits": selected * labels,
                "cross_entropy": weights * cross_entropy(predictions, labels),
                "squared": weights * (predictions - labels).square(),
            },
            buckets,
        )

    def merge(self, other: "BinarySums") -> None:
        """Add the rows of `other`."""
        self.sums.merge(other.sums)

    def totals(self) -> Totals:
        """Name → [groups, T] float64."""
        return self.sums.by_bucket

    def compute(self, totals: Totals) -> dict[str, Tensor]:
        """Metric → [*leading, T] float64 from sums of this shape."""
        ctr, pctr = totals["label"] / totals["weight"], totals["prediction"] / totals["weight"]
        log_loss = totals["cross_entropy"] / totals["weight"]
        ne = log_loss / base_entropy(ctr)
        return {
            "count": totals["rows"],
            "positives": totals["positive_rows"],
            "ctr": ctr,
            "pctr": pctr,
            "calibration": pctr / ctr,
            "precision": totals["hits"] / totals["selected"],
            "recall": totals["hits"] / totals["label"],
            "log_loss": log_loss,
            "brier": totals["squared"] / totals["weight"],
            "ne": ne,
            "rce": 100 * (1 - ne),
        }


class RegressionSums:
    """count, mean_label, mean_prediction, mae and rmse of T tasks, in the unit of the labels.

    NaN without rows, except for the count.
    """

    NAMES = ("rows", "weight", "label", "prediction", "absolute", "squared")

    def __init__(self, tasks: int, groups: int = BUCKETS) -> None:
        """`groups`: the number of buckets."""
        self.sums = Sums(self.NAMES, tasks, groups)

    def update(self, predictions: Tensor, labels: Tensor, weights: Tensor, buckets: Tensor) -> None:
        """Add rows: [B, T] float64 each, buckets [B] int64."""
        error = predictions - labels
        self.sums.add(
            {
                "rows": (weights > 0).double(),
                "weight": weights,
                "label": weights * labels,
                "prediction": weights * predictions,
                "absolute": weights * error.abs(),
                "squared": weights * error.square(),
            },
            buckets,
        )

    def merge(self, other: "RegressionSums") -> None:
        """Add the rows of `other`."""
        self.sums.merge(other.sums)

    def totals(self) -> Totals:
        """Name → [groups, T] float64."""
        return self.sums.by_bucket

    def compute(self, totals: Totals) -> dict[str, Tensor]:
        """Metric → [*leading, T] float64 from sums of this shape."""
        weight = totals["weight"]
        return {
            "count": totals["rows"],
            "mean_label": totals["label"] / weight,
            "mean_prediction": totals["prediction"] / weight,
            "mae": totals["absolute"] / weight,
            "rmse": (totals["squared"] / weight).sqrt(),
        }


def cross_entropy(probabilities: Tensor, labels: Tensor) -> Tensor:
    """−ln p where the label is 1, −ln(1 − p) where it is 0; [B, T] float64 each, with p clipped to [ε, 1 − ε]."""
    return -torch.where(labels > 0, probabilities, 1 - probabilities).clamp(EPSILON, 1 - EPSILON).log()


def base_entropy(rate: Tensor) -> Tensor:
    """Cross entropy of always predicting `rate`, the mean label; NaN where all labels are equal."""
    entropy = -(rate * rate.log() + (1 - rate) * torch.log1p(-rate))
    return torch.where((rate > 0) & (rate < 1), entropy, torch.nan)
