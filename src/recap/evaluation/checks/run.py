"""Runs all checks on the evidence."""

from collections.abc import Callable, Iterator, Sequence

from recap.evaluation.checks import data, quality, training
from recap.evaluation.checks.evidence import Evidence
from recap.evaluation.checks.finding import SEVERITIES, Finding, Severity

_CHECKS: tuple[Callable[[Evidence], Iterator[Finding]], ...] = (
    quality.overfit,
    quality.underfit,
    quality.miscalibrated_tasks,
    quality.miscalibrated_slices,
    quality.too_easy,
    data.useless_features,
    data.time_overlap,
    data.shared_rows,
    quality.few_positives,
    data.shifted,
    quality.worse_than_trees,
    training.loss_still_falling,
    training.loss_long_flat,
    training.gradient_conflict,
    quality.dominated_score,
    data.unknown_ids,
    data.missing_numbers,
    training.settings_at_their_edge,
)


def find(evidence: Evidence) -> list[Finding]:
    """The findings of all checks, the most severe first, in the order of their codes."""
    findings = [item for check in _CHECKS for item in check(evidence)]
    return sorted(findings, key=lambda item: (SEVERITIES.index(item.severity), item.code))


def failing(findings: Sequence[Finding], at: Severity) -> list[Finding]:
    """The findings that are at least as severe as `at`."""
    return [item for item in findings if SEVERITIES.index(item.severity) <= SEVERITIES.index(at)]
