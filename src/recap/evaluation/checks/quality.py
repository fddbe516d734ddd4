"""Checks of the predictions: fit, calibration, the score, and a comparison with boosted trees."""

import math
from collections.abc import Iterator

from recap.evaluation.checks.evidence import Evidence
from recap.evaluation.checks.finding import Finding, finding
from recap.evaluation.metrics.estimate import FEW_BUCKETS
from recap.evaluation.remarks import TOO_EASY
from recap.text import shorten

_GAP = 0.02
"""Of the AUC between training rows and the split."""
_MIN_POSITIVES = 200
_OFF, _FAR_OFF = 0.05, math.log(2)
"""|ln PCOC| that is worth a warning, and an error."""
_LEVEL = 0.05
"""The chance of a finding where there is nothing to find, over all tasks (Bonferroni)."""
_DOMINANT = 0.8
_TREES_BETTER = 0.002
_MAX_SLICES = 5


def overfit(evidence: Evidence) -> Iterator[Finding]:
    """R001."""
    for task, metrics in evidence.result.estimates.items():
        ours, training = metrics.get("auc"), evidence.training.get(task, {}).get("auc")
        if ours is None or training is None or _positives(evidence, task) < _MIN_POSITIVES:
            continue
        gap = training.value - ours.value
        error = math.hypot(training.standard_error, ours.standard_error)
        if gap > _GAP and gap > 3 * error:
            yield finding(
                "R001",
                task,
                f"{task} has an AUC of {training.value:.4f} on training rows and {ours.value:.4f} on {evidence.split}, "
                f"{gap:.4f} ± {2 * error:.4f} apart",
            )


def underfit(evidence: Evidence) -> Iterator[Finding]:
    """R002."""
    for task, training in evidence.training.items():
        auc, rce = training.get("auc"), evidence.result.estimates.get(task, {}).get("rce")
        if auc is None or rce is None or _positives(evidence, task) < _MIN_POSITIVES:
            continue
        if training["rce"].interval()[0] <= 0 and rce.interval()[0] <= 0:
            yield finding(
                "R002",
                task,
                f"{task} is predicted no better than by its mean label: RCE {training['rce'].value:.2f} on training "
                f"rows, {rce.value:.2f} on {evidence.split}; AUC {auc.value:.4f} on training rows",
            )


def miscalibrated_tasks(evidence: Evidence) -> Iterator[Finding]:
    """R003."""
    of_tasks = evidence.result.estimates
    estimates = {task: metrics["calibration"] for task, metrics in of_tasks.items() if "calibration" in metrics}
    corrected = f", interval corrected for {len(estimates)} tasks" if len(estimates) > 1 else ""
    for task, estimate in estimates.items():
        if not estimate.value > 0 or estimate.buckets < FEW_BUCKETS:
            continue
        low, high = estimate.interval(1 - _LEVEL / len(estimates))
        off = abs(math.log(estimate.value))
        if off > math.log1p(_OFF) and not low <= 1 <= high and _positives(evidence, task) >= 50:
            word = "over-predicted" if estimate.value > 1 else "under-predicted"
            certainly_far = min(abs(math.log(max(end, 1e-9))) for end in (low, high)) > _FAR_OFF
            yield finding(
                "R003",
                task,
                f"{task} is {word} on {evidence.split}: PCTR/CTR {estimate.value:.3f} [{low:.3f}, {high:.3f}]"
                + corrected,
                "error" if certainly_far else None,
            )


def miscalibrated_slices(evidence: Evidence) -> Iterator[Finding]:
    """R004: the surest slices of each task."""
    if evidence.slices is None:
        return
    slices = [item for item in evidence.slices.slices if item.kind == "calibration"]
    for item in slices[:_MAX_SLICES]:
        low, high = item.calibration_interval
        yield finding(
            "R004",
            item.task,
            f"{item.task} where {item.feature} is {shorten(item.values)}: PCTR/CTR {item.calibration:.3f} "
            f"[{low:.3f}, {high:.3f}] of {item.rows:,} rows, {item.calibration_of_others:.3f} elsewhere "
            f"(p {max(item.p, 1e-16):.0e})",
        )
    if len(slices) > _MAX_SLICES:
        yield finding(
            "R004", "", f"{len(slices) - _MAX_SLICES + evidence.slices.more:,} more slices are miscalibrated", "note"
        )


def dominated_score(evidence: Evidence) -> Iterator[Finding]:
    """R015."""
    shares = {
        name.removeprefix("share/"): share for name, share in evidence.result.score.items() if name.startswith("share/")
    }
    if len(shares) < 3:
        return
    for task, share in shares.items():
        if share > _DOMINANT:
            others = len(shares) - 1
            yield finding(
                "R015",
                task,
                f"{task} makes {share:.0%} of the score, and {others} other tasks together {1 - share:.0%}",
            )


def worse_than_trees(evidence: Evidence) -> Iterator[Finding]:
    """R011."""
    for task, item in evidence.trees.items():
        certain = item.p < _LEVEL / len(evidence.trees)
        if certain and item.value < -_TREES_BETTER and _positives(evidence, task) >= _MIN_POSITIVES:
            yield finding(
                "R011",
                task,
                f"{task}: boosted trees on a sample of the same columns have a higher AUC, by {-item.value:.4f} "
                f"[{-item.high:.4f}, {-item.low:.4f}]",
            )


def too_easy(evidence: Evidence) -> Iterator[Finding]:
    """R005, by the model and by single columns."""
    named = set()
    for leak in evidence.leaks:
        named.add(leak.label)
        yield finding(
            "R005", leak.column, f"{leak.column} alone ranks the rows of {leak.label} with an AUC of {leak.auc:.4f}"
        )
    for task, metrics in evidence.result.metrics.items():
        if metrics.get("auc", 0.0) > TOO_EASY and task not in named and _positives(evidence, task) >= 20:
            yield finding(
                "R005",
                task,
                f"{task} has an AUC of {metrics['auc']:.4f} on {evidence.split}; a feature may give it away",
            )


def few_positives(evidence: Evidence) -> Iterator[Finding]:
    """R009."""
    for task, metrics in evidence.result.metrics.items():
        positives = metrics.get("positives", math.nan)
        negatives = metrics.get("count", math.nan) - positives
        if min(positives, negatives) < 100:
            noun, count = ("positives", positives) if positives <= negatives else ("negatives", negatives)
            yield finding("R009", task, f"{task} has {count:,.0f} {noun} on {evidence.split}")


def _positives(evidence: Evidence, task: str) -> float:
    """The positives or the negatives, whichever are fewer; 0 for a regression."""
    metrics = evidence.result.metrics.get(task, {})
    positives = metrics.get("positives", 0.0)
    return min(positives, metrics.get("count", 0.0) - positives)
