"""AUC, PR-AUC, NRCE and ECE, which need all predictions at once.

They are exact while `rows.RowSample` holds all rows. Beyond that they come from `Histogram`, of fixed size, with
bounds. Which of the two is used depends on the number of rows alone. Their replicates come from `CoarseHistogram`,
which has a part for each bucket of users.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recap.evaluation.metrics.buckets import BUCKETS, Totals
from recap.evaluation.metrics.reliability import expected_calibration_error
from recap.evaluation.metrics.rows import Floats, Rows, changes, float_bits
from recap.evaluation.metrics.sums import EPSILON, base_entropy

BINS = 65_536
LOGIT_LIMIT = 16.0
"""Bins divide the logits from −16 to 16 evenly, 4.9e-4 wide; logits beyond fall into the outermost bins."""
COARSE_BINS = 2048
"""Bins of the same range, for the difference that a bucket makes."""


class Histogram:
    """Weight, and weight times probability, of the negatives and positives of T tasks by bins of the logit."""

    def __init__(self, tasks: int, calibration_bins: int = 20) -> None:
        self.tasks, self.calibration_bins = tasks, calibration_bins
        self.weights, self.predictions = torch.zeros(2, tasks, 2, BINS, dtype=torch.float64)  # (task, label, bin)

    def update(self, probabilities: Tensor, labels: Tensor, weights: Tensor) -> None:
        """Add rows: [B, T] float64 each."""
        cells = _cells(probabilities, labels, BINS)
        self.weights.view(-1).scatter_add_(0, cells, weights.T.flatten())
        self.predictions.view(-1).scatter_add_(0, cells, (weights * probabilities).T.flatten())

    def merge(self, other: "Histogram") -> None:
        """Add the rows of `other`."""
        self.weights += other.weights
        self.predictions += other.predictions

    def metrics(self, task: int) -> dict[str, float]:
        """auc, pr_auc, nrce and ece of the task in column `task`; the first three with bounds of their errors.

        That of AUC is ½ Σ_b P_b·N_b / (P·N) over bins b: the pairs whose order a bin hides.
        """
        negatives, positives = self.weights[task]
        bound = 0.5 * (negatives * positives).sum() / (negatives.sum() * positives.sum())
        scores = self.predictions[task] / self.weights[task]
        bounds = {
            "auc_bound": bound.item(),
            "pr_auc_bound": _average_precision_bound(negatives, positives).item(),
            "nrce_bound": _nrce_bound(negatives, positives, scores).item(),
        }
        values = _metrics(negatives, positives, scores, self.calibration_bins)
        return {name: value.item() for name, value in values.items()} | bounds


class CoarseHistogram:
    """auc, pr_auc, nrce and ece of T tasks, close enough to tell what the rows of a bucket change."""

    def __init__(self, tasks: int, groups: int = BUCKETS, calibration_bins: int = 20) -> None:
        """`groups`: the number of buckets."""
        self.tasks, self.groups, self.calibration_bins = tasks, groups, calibration_bins
        self._weights = torch.zeros(tasks, groups, 2, COARSE_BINS, dtype=torch.float64)  # a task fits into a cache

    def update(self, predictions: Tensor, labels: Tensor, weights: Tensor, buckets: Tensor) -> None:
        """Add rows: probabilities, labels and weights [B, T] float64, buckets [B] int64."""
        bins = bins_of(predictions.T.float(), COARSE_BINS) + COARSE_BINS * (labels.T > 0)  # [T, B]
        parts = torch.arange(self.tasks)[:, None] * self.groups + buckets
        self._weights.view(-1).scatter_add_(0, (2 * COARSE_BINS * parts + bins).flatten(), weights.T.flatten())

    def merge(self, other: "CoarseHistogram") -> None:
        """Add the rows of `other`."""
        self._weights += other._weights

    def totals(self) -> Totals:
        """`weights`: [groups, T, 2, COARSE_BINS] float64, of negatives and of positives."""
        return {"weights": self._weights.transpose(0, 1)}

    def compute(self, totals: Totals) -> dict[str, Tensor]:
        """Metric → [*leading, T] float64."""
        centres = (torch.arange(COARSE_BINS, dtype=torch.float64) + 0.5) / COARSE_BINS
        scores = ((2 * centres - 1) * LOGIT_LIMIT).sigmoid()
        by_task = []
        for task in range(self.tasks):
            weights = totals["weights"][..., task, :, :]
            used = weights.flatten(0, -2).any(dim=0)
            negatives, positives = weights[..., used].unbind(-2)
            by_task.append(_metrics(negatives, positives, scores[used], self.calibration_bins))
        return {name: torch.stack([values[name] for values in by_task], dim=-1) for name in by_task[0]}


def exact_metrics(rows: Rows, calibration_bins: int = 20) -> dict[str, float]:
    """auc, pr_auc, nrce, ece and auc_bound, which is 0; of probabilities that are float32 numbers."""
    negatives, positives, scores = map(torch.from_numpy, _by_score(rows))
    values = _metrics(negatives, positives, scores, calibration_bins)
    return {name: value.item() for name, value in values.items()} | {"auc_bound": 0.0}


def _by_score(rows: Rows) -> tuple[Floats, Floats, Floats]:
    """The weights of the negatives and of the positives at each distinct score; the scores, ascending."""
    bits = float_bits(rows.predictions).view(np.int32)  # in the same order
    weight = rows.weights.max(initial=0.0)
    if (rows.weights == weight).all():  # the label becomes the last bit, so that sorting takes it along
        keys = torch.from_numpy(2 * bits + (rows.labels > 0)).sort().values.numpy()
        ordered, labels = keys >> 1, keys & 1
        starts = np.flatnonzero(changes(ordered))
        counts = np.diff(starts, append=len(keys))
        hits = np.add.reduceat(labels, starts) if len(starts) else labels
        negatives, positives = weight * (counts - hits), weight * hits
    else:
        by_bits = torch.from_numpy(bits).sort()
        ordered, order = by_bits.values.numpy(), by_bits.indices.numpy()
        starts = np.flatnonzero(changes(ordered))
        weights, hits = rows.weights[order], rows.labels[order]
        negatives, positives = (np.add.reduceat(weights * part, starts) for part in (1 - hits, hits))
    return negatives, positives, ordered[starts].view(np.float32).astype(np.float64)


def auc(negatives: Tensor, positives: Tensor) -> Tensor:
    """Area under the ROC curve, ties counting half; NaN unless both labels occur.

    Arguments: weights of the negatives and of the positives at each score, scores ascending, [*leading, N] each.
    """
    below = negatives.cumsum(-1) - 0.5 * negatives
    return (positives * below).sum(-1) / (positives.sum(-1) * negatives.sum(-1))


def average_precision(negatives: Tensor, positives: Tensor) -> Tensor:
    """Σ precision · gain in recall, from the highest score down; NaN without positives. Arguments as for `auc`."""
    above_positives = positives.flip(-1).cumsum(-1)
    above = above_positives + negatives.flip(-1).cumsum(-1)
    precision = torch.where(above > 0, above_positives / above, 0.0)
    return (precision * positives.flip(-1)).sum(-1) / positives.sum(-1)


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


def _cells(probabilities: Tensor, labels: Tensor, bins: int) -> Tensor:
    """[B, T] → [T · B] int64, the cell (task, label, bin) of each, tasks first."""
    rows = 2 * torch.arange(probabilities.shape[1])[:, None] + (labels.T > 0)
    return (rows * bins + bins_of(probabilities.T, bins)).flatten()


def bins_of(probabilities: Tensor, bins: int) -> Tensor:
    """The bin of each probability of `bins` of the logit."""
    scaled = (probabilities.logit().clamp_(-LOGIT_LIMIT, LOGIT_LIMIT) + LOGIT_LIMIT) * (bins / (2 * LOGIT_LIMIT))
    return scaled.clamp_(max=bins - 1).long()


def _metrics(negatives: Tensor, positives: Tensor, scores: Tensor, calibration_bins: int) -> dict[str, Tensor]:
    """Weights are [*leading, N], ascending by prediction.

    `scores`: their predictions [N], or [2, N] where the negatives and positives of a bin have different means, which
    are undefined where there are none.
    """
    of_negatives, of_positives = scores if scores.dim() == 2 else (scores, scores)
    if scores.dim() == 2:
        of_negatives = torch.where(negatives > 0, of_negatives, 0.5)
        of_positives = torch.where(positives > 0, of_positives, 0.5)
    predictions = negatives * of_negatives + positives * of_positives
    return {
        "auc": auc(negatives, positives),
        "pr_auc": average_precision(negatives, positives),
        "nrce": _nrce(negatives, positives, of_negatives, of_positives),
        "ece": expected_calibration_error(negatives + positives, predictions, positives, calibration_bins),
    }


def _nrce(negatives: Tensor, positives: Tensor, of_negatives: Tensor, of_positives: Tensor) -> Tensor:
    """RCE after scaling the predictions so that their mean is the mean label.

    Weights are [*leading, N]; `of_negatives` and `of_positives` [N] are their predictions.
    """
    clicks = positives.sum(-1)
    total = clicks + negatives.sum(-1)
    rate, mean = clicks / total, ((negatives * of_negatives).sum(-1) + (positives * of_positives).sum(-1)) / total
    factor = (rate / mean)[..., None]
    low, high = ((column * factor).clamp(EPSILON, 1 - EPSILON) for column in (of_negatives, of_positives))
    entropy = (negatives * torch.log1p(-low)).sum(-1) + (positives * high.log()).sum(-1)
    return 100 * (1 + entropy / total / base_entropy(rate))


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
