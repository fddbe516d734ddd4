"""Curves of each task: ROC, precision and recall, reliability, and the distribution of predictions.

They come from a histogram per task, so their memory is bounded and they do not depend on the order of rows. A report
shows them; evaluations without one do not collect them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recap.config.recap import RecapConfig
from recap.data.batch import Batch
from recap.distributed import Ranks
from recap.evaluation.metrics.ranking import LOGIT_LIMIT, bins_of
from recap.evaluation.metrics.reliability import binned, equal_mass_bins
from recap.evaluation.observers.value_cells import ValueCells
from recap.model.scorer import Scores

BINS = 8192
"""Of the logit, from −`LOGIT_LIMIT` to `LOGIT_LIMIT`, 0.004 wide."""
POINTS = 200
"""Points of a curve, at most."""
SCORE_BINS = 60
"""Bins of a histogram of predictions, at most."""
_Z = 1.959963984540054
"""The normal quantile of an interval of 95 %."""
Points = dict[str, list[float]]
_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TaskCurves:
    """The curves of one task, as columns of equal length; those that are undefined are left out of the JSON."""

    roc: Points = field(default_factory=dict)
    """`x`, the false positive rate, and `y`, the true positive rate; from (0, 0) to (1, 1)."""
    pr: Points = field(default_factory=dict)
    """`x`, the recall, ascending, and `y`, the precision."""
    reliability: Mapping[str, Points] = field(default_factory=dict)
    """`calibrated`, and `before calibration` if that differs → bins of equal weight: their mean `prediction`, `rate` of
    positives with an interval of 95 % from `low` to `high`, `weight`, number of rows (`count`) and of `positives`."""
    histogram: Points = field(default_factory=dict)
    """`edges` of bins of the predicted probability, and the share of `positives` and `negatives` in each."""
    means: Points = field(default_factory=dict)
    """Of a regression: bins of equal weight by prediction: mean `prediction` and `label`, its interval of 95 % from
    `low` to `high`, `weight`, and number of rows (`count`)."""
    values: Points = field(default_factory=dict)
    """Of a regression: `edges` of bins of values, and the share of `predictions` and of `labels` in each. Values beyond
    count in the outermost bins."""

    def to_json(self) -> dict[str, Any]:
        """Name → columns."""
        return {name: columns for name, columns in vars(self).items() if columns}


class Curves:
    """The curves of the tasks that a split evaluates."""

    def __init__(self, config: RecapConfig, split: str, ranks: Ranks) -> None:
        tasks = config.evaluated_tasks(split)
        self.bins, self._ranks = config.metrics.calibration_bins, ranks
        columns = {task: config.tasks.index(task) for task in tasks}
        self._binary = {task: column for task, column in columns.items() if task not in config.regressions}
        self._values = {task: (columns[task], ValueCells()) for task in tasks if task in config.regressions}
        self._before, self._after = (_ProbabilityCells(len(self._binary)) for _ in range(2))
        self._tasks = list(tasks)

    def update(self, batch: Batch, scores: Scores) -> None:
        assert batch.labels is not None
        assert batch.weights is not None
        tensors = (scores.probabilities, scores.calibrated_probabilities, batch.labels, batch.weights)
        before, after, labels, weights = (tensor.cpu().double() for tensor in tensors)
        columns = list(self._binary.values())
        self._before.update(before[:, columns], labels[:, columns], weights[:, columns])
        self._after.update(after[:, columns], labels[:, columns], weights[:, columns])
        for column, cells in self._values.values():
            cells.update(after[:, column], labels[:, column], weights[:, column])

    def result(self) -> dict[str, TaskCurves]:
        """Task → its curves."""
        before, after = self._ranks.all_reduce([self._before.cells, self._after.cells])
        curves: dict[str, TaskCurves] = {}
        for index, task in enumerate(self._binary):
            reliability = {"calibrated": reliability_curve(after[index], self.bins)}
            if not torch.equal(before[index], after[index]):
                reliability["before calibration"] = reliability_curve(before[index], self.bins)
            negatives, positives = after[index, :, :, _WEIGHT].numpy()
            curves[task] = TaskCurves(
                *threshold_curves(negatives, positives),
                {name: points for name, points in reliability.items() if points},
                score_histogram(negatives, positives),
            )
        for task, (_, cells) in self._values.items():
            means, values = cells.reduced(self._ranks).curves(self.bins)
            curves[task] = TaskCurves(means=means, values=values)
        return {task: curves[task] for task in self._tasks}


_WEIGHT, _PREDICTION, _SQUARE, _COUNT = range(4)


class _ProbabilityCells:
    """Sums over rows by task, label and bin of the logit."""

    def __init__(self, tasks: int) -> None:
        self.cells = torch.zeros(tasks, 2, BINS, 4, dtype=torch.float64)
        """[T, 2, BINS, 4]: Σ w, Σ wp, Σ w² and the number of rows with a weight."""

    def update(self, probabilities: Tensor, labels: Tensor, weights: Tensor) -> None:
        """Add rows: [B, T] float64 each."""
        rows = 2 * torch.arange(probabilities.shape[1]) + (labels > 0)
        cells = rows * BINS + bins_of(probabilities, BINS)
        sums = torch.stack([weights, weights * probabilities, weights.square(), (weights > 0).double()], dim=2)
        self.cells.view(-1, 4).index_add_(0, cells.flatten(), sums.flatten(0, 1))


def threshold_curves(negatives: _Floats, positives: _Floats) -> tuple[Points, Points]:
    """ROC, and precision and recall, from the weights of negatives and positives at scores ascending, [N] each.

    At most `POINTS` points of each, evenly spread along the curve. Empty where undefined: without positives, and the
    ROC without negatives.
    """
    used = np.flatnonzero(negatives + positives)[::-1]
    hits, false_hits = np.cumsum(positives[used]), np.cumsum(negatives[used])
    if not len(used) or not hits[-1]:
        return {}, {}
    recall = hits / hits[-1]
    chosen = _spread(recall)
    precision = hits / (hits + false_hits)
    curve = {"x": recall[chosen].tolist(), "y": precision[chosen].tolist()}
    if not false_hits[-1]:
        return {}, curve
    false = np.r_[0.0, false_hits / false_hits[-1]]
    true = np.r_[0.0, recall]
    chosen = _spread(false + true)
    return {"x": false[chosen].tolist(), "y": true[chosen].tolist()}, curve


def reliability_curve(cells: Tensor, bins: int) -> Points:
    """The reliability of one task from its cells [2, BINS, 4]; empty without rows.

    The interval is that of Wilson (JASA 1927) for (Σ w)² / Σ w² rows; it takes rows as independent.
    """
    weights = cells[:, :, _WEIGHT].sum(dim=0)
    numbers = equal_mass_bins(weights, bins)
    by_bin = torch.stack([binned(cells[label, :, column], numbers, bins) for label in (0, 1) for column in range(4)])
    negative, positive = by_bin.view(2, 4, bins).numpy()
    both = negative + positive
    used = both[_WEIGHT] > 0
    weight, prediction, square, count = both[:, used]
    rate, rows = positive[_WEIGHT, used] / weight, weight**2 / square
    middle = (rate + _Z**2 / (2 * rows)) / (1 + _Z**2 / rows)
    half = _Z / (1 + _Z**2 / rows) * np.sqrt(rate * (1 - rate) / rows + (_Z / (2 * rows)) ** 2)
    columns = {
        "prediction": prediction / weight,
        "rate": rate,
        "low": np.clip(middle - half, 0, rate),
        "high": np.clip(middle + half, rate, 1),
        "weight": weight,
        "count": count,
        "positives": positive[_COUNT, used],
    }
    return {name: column.tolist() for name, column in columns.items()} if len(weight) else {}


def score_histogram(negatives: _Floats, positives: _Floats) -> Points:
    """The distribution of predictions by label, from their weights by bin of the logit [BINS]; empty without rows."""
    used = np.flatnonzero(negatives + positives)
    if not len(used):
        return {}
    first, last = int(used[0]), int(used[-1]) + 1
    starts = np.linspace(first, last, min(SCORE_BINS, last - first) + 1).round().astype(np.int64)
    logits = torch.from_numpy(starts * (2 * LOGIT_LIMIT / BINS) - LOGIT_LIMIT)
    shares = {
        name: np.add.reduceat(weights, starts[:-1]) / max(weights.sum(), np.finfo(np.float64).tiny)
        for name, weights in (("positives", positives[:last]), ("negatives", negatives[:last]))
    }
    return {"edges": logits.sigmoid().tolist(), **{name: share.tolist() for name, share in shares.items()}}


def _spread(along: _Floats) -> npt.NDArray[np.intp]:
    """At most `POINTS` positions of an ascending column: the first, the last, and others evenly by value."""
    wanted = np.linspace(along[0], along[-1], POINTS - 1)
    return np.unique(np.r_[0, np.searchsorted(along, wanted), len(along) - 1].clip(max=len(along) - 1))
