"""The metrics of a split before and after a fitted calibration, on the same rows."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recap.config.recap import RecapConfig
from recap.data.encoding.assets import discrete_columns
from recap.evaluation.calibrate.rows import SplitRows
from recap.evaluation.metrics.estimate import Difference, Estimate, difference
from recap.evaluation.metrics.suite import MetricSuite
from recap.evaluation.observers.columns import ColumnSums, field_rce_estimates, max_bins
from recap.evaluation.plain import to_plain
from recap.model.calibration import FittedCalibration, FittedMaps, has_one_code

_BLOCK = 1 << 16
METRICS = ("log_loss", "rce", "calibration", "ece", "auc")


@dataclass(frozen=True)
class TaskGain:
    """What a calibration changed for one task."""

    before: Mapping[str, Estimate]
    after: Mapping[str, Estimate]

    @property
    def log_loss(self) -> Difference:
        """Log loss before minus after; above 0 if the calibration helps."""
        return difference(self.before["log_loss"], self.after["log_loss"])

    def to_json(self) -> dict[str, Any]:
        """Metric → its value and interval before and after; null where undefined."""
        metrics: dict[str, Any] = {
            name: {"before": _estimate(self.before[name]), "after": _estimate(self.after[name])} for name in self.before
        }
        gain = self.log_loss
        metrics["log_loss"]["gain"] = {"value": gain.value, "interval": [gain.low, gain.high]}
        content: dict[str, Any] = to_plain(metrics)
        return content


@dataclass(frozen=True)
class SplitGain:
    """What a calibration changed on the rows of one split."""

    split: str
    rows: int
    tasks: Mapping[str, TaskGain]
    """The tasks that have a fitted calibration, and labels here."""
    monotone: bool
    """Whether the calibration has no offsets, so that it keeps the order of rows."""

    @property
    def metrics(self) -> list[str]:
        """Every metric that a task has."""
        return list(dict.fromkeys(name for task in self.tasks.values() for name in task.before))

    @property
    def auc_change(self) -> float | None:
        """The largest change of an AUC, which can only be of rows whose float32 probabilities became equal.

        None for a calibration with offsets, which may change the order of rows.
        """
        changes = [abs(task.after["auc"].value - task.before["auc"].value) for task in self.tasks.values()]
        return max(filter(math.isfinite, changes), default=0.0) if self.monotone else None

    def to_json(self) -> dict[str, Any]:
        """The entry of this split in `calibration.json`."""
        return {
            "split": self.split,
            "rows": self.rows,
            "tasks": {name: task.to_json() for name, task in self.tasks.items()},
        }


def measure_gain(rows: SplitRows, fitted: FittedCalibration, config: RecapConfig, split: str) -> SplitGain:
    """`METRICS` and Field-RCE of `rows`, which are of `split`, by their probabilities and by the calibrated ones.

    Field-RCE is of the features of `rows.codes`.
    """
    codes = None if fitted.by is None else rows.codes[fitted.by]
    after = FittedMaps(fitted, config).mapped(rows.probabilities, codes)
    before, calibrated = (_estimates(rows, predictions, config) for predictions in (rows.probabilities, after))
    tasks = {
        task: TaskGain(before[task], calibrated[task])
        for task in config.tasks
        if task in fitted.tasks and not math.isnan(before[task]["log_loss"].value)
    }
    return SplitGain(split, rows.total, tasks, monotone=fitted.by is None)


def code_columns(config: RecapConfig, by: str | None) -> dict[str, int]:
    """Feature → its column of `Batch.discrete`, for `metrics.fields` with one code per row and the feature `by`."""
    fields = dict.fromkeys([*config.metrics.fields, *([] if by is None else [by])])
    columns, known = discrete_columns(config.features), config.features.discrete
    return {field: columns[field].start for field in fields if field in known and has_one_code(config, field)}


def _estimates(rows: SplitRows, predictions: Tensor, config: RecapConfig) -> dict[str, dict[str, Estimate]]:
    """Task → metric → estimate."""
    suite = MetricSuite(config.tasks, METRICS, config.regressions, config.metrics)
    for part in _blocks(len(rows)):
        suite.update(predictions[part], rows.labels[part], rows.weights[part], rows.users[part])
    estimates = {
        task: {name: of[name] for name in METRICS if name in of} for task, of in suite.result().estimates.items()
    }
    for field, codes in rows.codes.items():
        for column, estimate in enumerate(_field_rce(rows, predictions, codes)):
            estimates[config.tasks[column]][f"field_rce_{field}"] = estimate
    return estimates


def _field_rce(rows: SplitRows, predictions: Tensor, codes: Tensor) -> list[Estimate]:
    """The Field-RCE of each task over the values `codes` [N]; none of a feature with too many values to sum."""
    known, value = np.unique(codes.numpy(), return_inverse=True)
    tasks = predictions.shape[1]
    if len(known) > max_bins(tasks):
        return []
    sums = ColumnSums.of(len(known), tasks)
    index, buckets = torch.from_numpy(value).unsqueeze(0), rows.buckets
    for part in _blocks(len(rows)):
        labels, weights = rows.labels[part].double(), rows.weights[part].double()
        sums.add(index[:, part], predictions[part].double(), labels, weights, buckets[part])
    return field_rce_estimates(sums.sums)


def _blocks(rows: int) -> Iterator[slice]:
    """Rows to add at once, which bounds memory."""
    return (slice(start, start + _BLOCK) for start in range(0, rows, _BLOCK))


def _estimate(estimate: Estimate) -> dict[str, Any]:
    return {"value": estimate.value, "interval": estimate.interval()}
