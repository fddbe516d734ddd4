"""AUC, PR-AUC and NRCE, which need all predictions at once.

They are exact while `rows.RowSample` holds all rows. All rows also enter a histogram of fixed size, which is used once
some rows are dropped; the metrics then come with bounds. Which of the two is used depends on the number of rows alone.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recap.evaluation.metrics.rows import Rows
from recap.evaluation.metrics.sums import EPSILON, base_entropy, cross_entropy

BINS = 65_536
LOGIT_LIMIT = 16.0
"""Bins divide the logits from −16 to 16 evenly, 4.9e-4 wide; logits beyond fall into the outermost bins."""


class Histogram:
    """Weight, and weight times probability, of the negatives and positives of T tasks by bins of the logit."""

    def __init__(self, tasks: int) -> None:
        self.tasks = tasks
        self.bins = torch.zeros(2 * tasks * BINS, 2, dtype=torch.float64)  # (label, task, bin), (Σ w, Σ wp)

    def update(self, probabilities: Tensor, labels: Tensor, weights: Tensor) -> None:
        """Add rows: [B, T] float64 each."""
        cell = _bin(probabilities) + BINS * torch.arange(self.tasks)  # [B, T]
        cell = cell + self.tasks * BINS * labels.long()
        values = torch.stack([weights, weights * probabilities], dim=2)  # [B, T, 2]
        self.bins.index_add_(0, cell.flatten(), values.flatten(0, 1))

    def merge(self, other: "Histogram") -> None:
        """Add the rows of `other`."""
        self.bins += other.bins

    def metrics(self, task: int) -> dict[str, float]:
        """auc, pr_auc and nrce of the task in column `task`, each with the bound of its error.

        That of AUC is ½ Σ_b P_b·N_b / (P·N) over bins b: the pairs whose order a bin hides.
        """
        bins = self.bins.view(2, self.tasks, BINS, 2)[:, task]
        negatives, positives = bins[0, :, 0], bins[1, :, 0]
        bound = 0.5 * (negatives * positives).sum() / (negatives.sum() * positives.sum())
        scores = bins[:, :, 1] / bins[:, :, 0]
        bounds = {
            "auc_bound": bound.item(),
            "pr_auc_bound": _average_precision_bound(negatives, positives).item(),
            "nrce_bound": _nrce_bound(negatives, positives, scores).item(),
        }
        return _metrics(negatives, positives, scores) | bounds


def exact_metrics(rows: Rows) -> dict[str, float]:
    """auc, pr_auc, nrce and auc_bound, which is 0."""
    predictions, labels, weights = map(torch.from_numpy, (rows.predictions, rows.labels, rows.weights))
    distinct, tie = torch.unique(predictions, return_inverse=True)
    empty = torch.zeros(len(distinct), dtype=torch.float64)
    negatives = empty.index_add(0, tie, weights * (1 - labels))
    positives = empty.index_add(0, tie, weights * labels)
    return {**_metrics(negatives, positives, distinct), "auc_bound": 0.0}


def auc(negatives: Tensor, positives: Tensor) -> Tensor:
    """Area under the ROC curve, ties counting half; NaN unless both labels occur.

    Arguments: weights of the negatives and of the positives at each score, scores ascending, [N] each.
    """
    below = negatives.cumsum(0) - negatives
    return (positives * (below + 0.5 * negatives)).sum() / (positives.sum() * negatives.sum())


def average_precision(negatives: Tensor, positives: Tensor) -> Tensor:
    """Σ precision · gain in recall, from the highest score down; NaN without positives. Arguments as for `auc`."""
    above_positives = positives.flip(0).cumsum(0)
    above = above_positives + negatives.flip(0).cumsum(0)
    precision = torch.where(above > 0, above_positives / above, 0.0)
    return (precision * positives.flip(0)).sum() / positives.sum()


def auc_standard_error(auc_value: float, positives: float, negatives: float) -> float:
    """Standard error of an AUC from its counts of rows (Hanley & McNeil, Radiology 1982); NaN where undefined."""
    if not positives or not negatives or math.isnan(auc_value):
        return math.nan
    return math.sqrt(auc_variance(auc_value, positives, negatives))


def auc_variance(auc_value: Any, positives: Any, negatives: Any) -> Any:
    """The square of `auc_standard_error`, of numbers or of arrays; counts above 0."""
    both_positives = auc_value / (2 - auc_value)
    both_negatives = 2 * auc_value**2 / (1 + auc_value)
    variance = auc_value * (1 - auc_value)
    variance += (positives - 1) * (both_positives - auc_value**2)
    variance += (negatives - 1) * (both_negatives - auc_value**2)
    return np.maximum(variance, 0.0) / (positives * negatives)


def _bin(probabilities: Tensor) -> Tensor:
    """The bin of each probability."""
    logits = probabilities.log() - torch.log1p(-probabilities)
    scaled = (logits.clamp(-LOGIT_LIMIT, LOGIT_LIMIT) + LOGIT_LIMIT) / (2 * LOGIT_LIMIT)
    return (scaled * BINS).long().clamp(max=BINS - 1)


def _metrics(negatives: Tensor, positives: Tensor, scores: Tensor) -> dict[str, float]:
    return {
        "auc": auc(negatives, positives).item(),
        "pr_auc": average_precision(negatives, positives).item(),
        "nrce": _nrce(negatives, positives, scores).item(),
    }


def _nrce(negatives: Tensor, positives: Tensor, scores: Tensor) -> Tensor:
    """RCE after scaling the predictions so that their mean is the mean label.

    `scores` is [N], or [2, N] where the negatives and positives of a bin have different means.
    """
    weights = torch.stack([negatives, positives])  # [2, N]
    scores = torch.where(weights > 0, scores.expand_as(weights), 0.5)
    total = weights.sum()
    rate, mean = positives.sum() / total, (weights * scores).sum() / total
    labels = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    entropy = (weights * cross_entropy(scores * rate / mean, labels)).sum() / total
    return 100 * (1 - entropy / base_entropy(rate))


def _average_precision_bound(negatives: Tensor, positives: Tensor) -> Tensor:
    """The maximum error of `average_precision`: the positives of a bin may all be above its negatives, or below."""
    positives, negatives = positives.flip(0), negatives.flip(0)
    to, with_bin = positives.cumsum(0), (positives + negatives).cumsum(0)
    above, above_positives = with_bin - positives - negatives, to - positives
    middle = torch.where(with_bin > 0, to / with_bin, 0.0)
    highest = torch.where(above + positives > 0, to / (above + positives), 0.0)
    lowest = torch.where(above + negatives > 0, above_positives / (above + negatives), 0.0)
    gains = positives / positives.sum()
    return torch.maximum(((highest - middle) * gains).sum(), ((middle - lowest) * gains).sum())


def _nrce_bound(negatives: Tensor, positives: Tensor, scores: Tensor) -> Tensor:
    """The maximum error of `_nrce`: the logarithms of a bin that spans d lie at most d² / 8 above that of its mean."""
    weights = torch.stack([negatives, positives])  # [2, N]
    scores = torch.where(weights > 0, scores, 0.5)
    total = weights.sum()
    rate, mean = positives.sum() / total, (weights * scores).sum() / total
    spans = torch.full_like(negatives, 2 * LOGIT_LIMIT / BINS)
    spans[[0, -1]] = _logit(1 - EPSILON) - LOGIT_LIMIT + 2 * LOGIT_LIMIT / BINS  # with all logits beyond
    scaled = scores * rate / mean
    slopes = torch.stack([scaled[0] * (1 - scores[0]) / (1 - scaled[0]).clamp(min=EPSILON), torch.ones_like(negatives)])
    gaps = (weights * (spans * slopes) ** 2 / 8).sum() / total
    return 100 * gaps / base_entropy(rate)


def _logit(probability: float) -> float:
    return math.log(probability) - math.log1p(-probability)
