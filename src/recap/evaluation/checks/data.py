"""Checks of the data: overlap with the training rows, drift, unknown values, features without use."""

from collections.abc import Iterator, Sequence

from recap.config.features import FeaturesConfig
from recap.data.tools.times import shown
from recap.evaluation.checks.evidence import Evidence
from recap.evaluation.checks.finding import Finding, finding
from recap.text import plural, shorten

_SHARED = 20
"""Rows in common above which sharing is more than chance."""
_SHARED_SHARE = 0.005
_SHIFT = 0.25
_UNKNOWN, _MISSING = 0.2, 0.5
_NO_USE = 0.0005
_LISTED = 8


def useless_features(evidence: Evidence) -> Iterator[Finding]:
    """R006, in one finding."""
    useless = []
    for item in evidence.importance:
        losses = [
            loss for metrics in item.losses.values() for name, loss in metrics.items() if name in ("auc", "rce", "xauc")
        ]
        aucs = [metrics[name].value for metrics in item.losses.values() for name in ("auc", "xauc") if name in metrics]
        finite = [value for value in aucs if value == value]
        if finite and not any(loss.low > 0 for loss in losses) and abs(sum(finite) / len(finite)) < _NO_USE:
            useless.append(item.name)
    if useless and len(useless) < len(evidence.importance):
        yield finding("R006", "", f"no measurable effect of {plural(len(useless), 'feature')}: {_listed(useless)}")


def time_overlap(evidence: Evidence) -> Iterator[Finding]:
    """R007."""
    ends, starts = evidence.overlap.training_ends, evidence.overlap.split_starts
    if ends is not None and starts is not None and starts < ends:
        column = evidence.config.features.timestamp
        yield finding(
            "R007",
            evidence.split,
            f"{evidence.split} begins at {shown(starts)}, before the training rows end at {shown(ends)} ({column})",
        )


def shared_rows(evidence: Evidence) -> Iterator[Finding]:
    """R008."""
    overlap = evidence.overlap
    if overlap.files:
        yield finding(
            "R008",
            evidence.split,
            f"{plural(len(overlap.files), 'file')} of {evidence.split} are training files: {_listed(overlap.files)}",
        )
        return
    share = overlap.shared / overlap.rows if overlap.rows else 0.0
    if overlap.shared >= _SHARED and share > 2 * overlap.repeated + _SHARED_SHARE:
        yield finding(
            "R008",
            evidence.split,
            f"{overlap.shared:,} of {overlap.rows:,} sampled rows of {evidence.split} ({share:.1%}) equal a sampled "
            f"training row; of training rows {overlap.repeated:.1%} equal another one",
        )


def shifted(evidence: Evidence) -> Iterator[Finding]:
    """R010: one finding for all features, and one for each label rate."""
    if evidence.drift is None:
        return
    features = [f"{item.feature} ({item.psi:.2f})" for item in evidence.drift.features if item.psi > _SHIFT]
    if features:
        noun = "feature differs" if len(features) == 1 else "features differ"
        yield finding(
            "R010",
            "",
            f"{len(features)} {noun} between the training rows and {evidence.split}, by PSI: {_listed(features)}",
        )
    for item in evidence.drift.tasks:
        before, after = item.mean_label
        rows = min(evidence.drift.rows)
        error = 3 * (max(before, after, 0.0) * 2 / max(rows, 1)) ** 0.5
        if before > 0 and after > 0 and not 2 / 3 < after / before < 1.5 and abs(after - before) > error:
            yield finding(
                "R010",
                item.task,
                f"the label rate of {item.task} is {after:.5f} on {evidence.split}, and {before:.5f} on training rows",
            )


def unknown_ids(evidence: Evidence) -> Iterator[Finding]:
    """R016."""
    numeric = _numeric(evidence.config.features)
    for feature, share in evidence.result.unknown.items():
        if feature.partition("[")[0] not in numeric and share > _UNKNOWN:
            yield finding(
                "R016", feature, f"{share:.0%} of the values of {feature} are unknown or missing on {evidence.split}"
            )


def missing_numbers(evidence: Evidence) -> Iterator[Finding]:
    """R017."""
    numeric = _numeric(evidence.config.features)
    for feature, share in evidence.result.unknown.items():
        if feature.partition("[")[0] in numeric and share > _MISSING:
            yield finding(
                "R017", feature, f"{share:.0%} of the values of {feature} are missing or not finite on {evidence.split}"
            )


def _numeric(features: FeaturesConfig) -> set[str]:
    return {column.name for column in (*features.continuous, *features.binary)} | set(features.vectors)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(shorten(name) for name in names[:_LISTED])
    return shown + (f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else "")
