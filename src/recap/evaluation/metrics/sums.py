"""Metrics that follow from sums over the rows: rates, calibration and cross entropy."""

import torch
from torch import Tensor
from torchmetrics import Metric

EPSILON = 1e-7
"""Probabilities are kept this far from 0 and 1 in a logarithm, about what a float32 sigmoid resolves."""

_SUMS = ("rows", "positive_rows", "weight", "label", "prediction", "taken", "found", "cross_entropy")


def cross_entropy(probabilities: Tensor, labels: Tensor) -> Tensor:
    """−y·log p − (1 − y)·log(1 − p) of each entry, float64, p clipped to [ε, 1 − ε]."""
    clipped = probabilities.clamp(EPSILON, 1 - EPSILON)
    return -(labels * clipped.log() + (1 - labels) * torch.log1p(-clipped))


class SumMetrics(Metric):
    """count, positives, ctr, pctr, calibration, precision, recall, log_loss, ne, rce of T tasks at once.

    All sums are float64. Precision is the share of positives among the rows that are taken for positive, those whose
    probability is `threshold` or more, and recall the share of the positives that these are.

    ne is the normalized entropy of He et al. (ADKDD 2014): cross entropy over that of always predicting the mean
    label; rce = 100 · (1 − ne), in percent. Undefined values are NaN: everything but the counts of no rows, and ne and
    rce where all labels are equal, precision where no row is taken, recall without positives.
    """

    full_state_update = False

    def __init__(self, tasks: int, threshold: float = 0.5) -> None:
        super().__init__(compute_with_cache=False, sync_on_compute=False)
        self.threshold = threshold
        for name in _SUMS:
            self.add_state(name, torch.zeros(tasks, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, probabilities: Tensor, labels: Tensor, weights: Tensor) -> None:
        """[B, T] float64 each."""
        counted = (weights > 0).double()
        taken = weights * (probabilities >= self.threshold)
        sums = {
            "rows": counted,
            "positive_rows": counted * labels,
            "weight": weights,
            "label": weights * labels,
            "prediction": weights * probabilities,
            "taken": taken,
            "found": taken * labels,
            "cross_entropy": weights * cross_entropy(probabilities, labels),
        }
        for name, values in sums.items():
            getattr(self, name).add_(values.sum(dim=0))

    def compute(self) -> dict[str, Tensor]:
        """Metric → [T] float64."""
        state = {name: getattr(self, name) for name in _SUMS}
        ctr, pctr = state["label"] / state["weight"], state["prediction"] / state["weight"]
        log_loss = state["cross_entropy"] / state["weight"]
        ne = log_loss / base_entropy(ctr)
        return {
            "count": state["rows"],
            "positives": state["positive_rows"],
            "ctr": ctr,
            "pctr": pctr,
            "calibration": pctr / ctr,
            "precision": state["found"] / state["taken"],
            "recall": state["found"] / state["label"],
            "log_loss": log_loss,
            "ne": ne,
            "rce": 100 * (1 - ne),
        }


def base_entropy(rate: Tensor) -> Tensor:
    """Cross entropy of always predicting `rate`, the mean label; NaN where all labels are equal."""
    entropy = -(rate * rate.log() + (1 - rate) * torch.log1p(-rate))
    return torch.where((rate > 0) & (rate < 1), entropy, torch.nan)
