"""Metrics of order: AUC and PR-AUC, and NRCE, which like them needs all predictions at once.

Rows are kept while they fit, and the metrics are exact. All rows also enter a histogram of fixed size; when they no
longer fit, it alone answers. Which of the two answers depends on the number of rows, never on their order or on how the
stream was cut.
"""

import math

import torch
from torch import Tensor
from torchmetrics import Metric

from recap.evaluation.metrics.sums import base_entropy, cross_entropy

EXACT_ROWS = 1_000_000
"""Rows kept at the most; 12 bytes a row and task."""
BINS = 65_536
LOGIT_LIMIT = 16.0
"""Bins part the logits from −16 to 16 evenly, 4.9e-4 apart; what lies beyond joins the outermost."""


class RankingMetrics(Metric):
    """auc, auc_se, pr_auc and nrce of T tasks at once, weighted, ties counting half.

    The binned AUC is off by at most ½ Σ_b P_b·N_b / (P·N) over bins b (the pairs whose order a bin hides), given as
    `auc_bound`. The binned NRCE is off by the second order of a bin's width, since a bin stands for its mean: below
    1e-4 percent where scaled predictions stay under 0.9. NaN where a task has no positives or no negatives.
    """

    full_state_update = False

    def __init__(self, tasks: int, exact_rows: int = EXACT_ROWS) -> None:
        super().__init__(compute_with_cache=False, sync_on_compute=False)
        self.tasks, self.exact_rows = tasks, exact_rows
        self.rows: Tensor
        self.kept: list[Tensor]
        self.bins: Tensor
        self.add_state("rows", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("kept", [], dist_reduce_fx="cat")  # [N, 3, T] float32: probability, label, weight
        # Weight, and weight times probability, of the negatives and of the positives in each bin.
        self.add_state("bins", torch.zeros(2 * tasks * BINS, 2, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, probabilities: Tensor, labels: Tensor, weights: Tensor) -> None:
        """[B, T] float64 each."""
        self.rows += len(probabilities)
        self.kept.append(torch.stack([probabilities, labels, weights], dim=1).float())
        self._let_go()
        place = _bin(probabilities) + BINS * torch.arange(self.tasks)  # [B, T]
        place = place + self.tasks * BINS * labels.long()
        values = torch.stack([weights, weights * probabilities], dim=2)  # [B, T, 2]
        self.bins.index_add_(0, place.flatten(), values.flatten(0, 1))

    def merge_state(self, incoming_state: "dict[str, Tensor] | Metric") -> None:
        """Take in the rows of another one."""
        super().merge_state(incoming_state)
        self._let_go()

    def compute(self) -> dict[str, Tensor]:
        """Metric → [T] float64."""
        rows = torch.cat([*self.kept, torch.zeros(0, 3, self.tasks)]).double() if self._is_exact() else None
        bins = self.bins.view(2, self.tasks, BINS, 2)
        found: dict[str, list[Tensor]] = {"auc": [], "pr_auc": [], "nrce": [], "auc_bound": []}
        for task in range(self.tasks):
            if rows is not None:
                negatives, positives, scores = _ties(*rows[:, :, task].unbind(dim=1))
                bound = torch.zeros((), dtype=torch.float64)
            else:
                negatives, positives = bins[0, task, :, 0], bins[1, task, :, 0]
                scores = torch.stack([bins[0, task, :, 1], bins[1, task, :, 1]]) / torch.stack([negatives, positives])
                bound = 0.5 * (negatives * positives).sum() / (negatives.sum() * positives.sum())
            found["auc"].append(auc(negatives, positives))
            found["pr_auc"].append(average_precision(negatives, positives))
            found["nrce"].append(_nrce(negatives, positives, scores))
            found["auc_bound"].append(bound)
        return {name: torch.stack(values) for name, values in found.items()}

    def _is_exact(self) -> bool:
        return int(self.rows) <= self.exact_rows

    def _let_go(self) -> None:
        if not self._is_exact():
            self.kept = []


def auc(negatives: Tensor, positives: Tensor) -> Tensor:
    """Area under the ROC curve from the weights at each score, rising: [N] each → scalar; NaN without both."""
    below = negatives.cumsum(0) - negatives
    return (positives * (below + 0.5 * negatives)).sum() / (positives.sum() * negatives.sum())


def average_precision(negatives: Tensor, positives: Tensor) -> Tensor:
    """Σ precision · recall gained, from the highest score down; NaN without positives."""
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
    """The bin of each probability: a function of it alone."""
    logits = probabilities.log() - torch.log1p(-probabilities)
    scaled = (logits.clamp(-LOGIT_LIMIT, LOGIT_LIMIT) + LOGIT_LIMIT) / (2 * LOGIT_LIMIT)
    return (scaled * BINS).long().clamp(max=BINS - 1)


def _ties(probabilities: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weights of negatives and positives at each distinct probability, rising, and the probabilities: [N] each."""
    distinct, place = torch.unique(probabilities, return_inverse=True)
    empty = torch.zeros(len(distinct), dtype=torch.float64)
    negatives = empty.index_add(0, place, weights * (1 - labels))
    positives = empty.index_add(0, place, weights * labels)
    return negatives, positives, distinct


def _nrce(negatives: Tensor, positives: Tensor, scores: Tensor) -> Tensor:
    """RCE after scaling the predictions so that their mean is the mean label.

    `scores` is [N], or [2, N] where negatives and positives at a place have means of their own.
    """
    weights = torch.stack([negatives, positives])  # [2, N]
    scores = torch.where(weights > 0, scores.expand_as(weights), 0.5)
    total = weights.sum()
    rate, mean = positives.sum() / total, (weights * scores).sum() / total
    labels = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    entropy = (weights * cross_entropy(scores * rate / mean, labels)).sum() / total
    return 100 * (1 - entropy / base_entropy(rate))
