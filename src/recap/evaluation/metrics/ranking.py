"""AUC, PR-AUC and NRCE, which need all predictions at once.

They are exact while `rows.RowSample` holds all rows. All rows also enter a histogram of fixed size, which is used once
some rows are dropped. Which of the two is used depends on the number of rows alone.
"""

import math

import torch
from torch import Tensor

from recap.evaluation.metrics.rows import Rows
from recap.evaluation.metrics.sums import base_entropy, cross_entropy

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
        """auc, pr_auc and nrce of the task in column `task`, and auc_bound: the largest error of this AUC.

        The error is at most ½ Σ_b P_b·N_b / (P·N) over bins b: the pairs whose order a bin hides. NRCE is off by the
        second order of a bin's width, since a bin stands for its mean: below 1e-4 percent where scaled predictions
        stay under 0.9.
        """
        bins = self.bins.view(2, self.tasks, BINS, 2)[:, task]
        negatives, positives = bins[0, :, 0], bins[1, :, 0]
        bound = 0.5 * (negatives * positives).sum() / (negatives.sum() * positives.sum())
        scores = bins[:, :, 1] / bins[:, :, 0]
        return {**_metrics(negatives, positives, scores), "auc_bound": bound.item()}


def exact_metrics(rows: Rows) -> dict[str, float]:
    """auc, pr_auc, nrce and auc_bound, which is 0."""
    predictions, labels, weights = map(torch.from_numpy, rows[1:])
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
    both_positives = auc_value / (2 - auc_value)
    both_negatives = 2 * auc_value**2 / (1 + auc_value)
    variance = auc_value * (1 - auc_value)
    variance += (positives - 1) * (both_positives - auc_value**2)
    variance += (negatives - 1) * (both_negatives - auc_value**2)
    return math.sqrt(max(variance, 0.0) / (positives * negatives))


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
