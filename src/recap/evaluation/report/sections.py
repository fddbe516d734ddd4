"""The sections of a report that look further than the evaluation: feature importance, drift and checks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from recap.config.recap import RecapConfig
from recap.data.tools.times import shown
from recap.errors import DataError
from recap.evaluation.checks.finding import Finding
from recap.evaluation.checks.gather import gather
from recap.evaluation.checks.run import find
from recap.evaluation.checks.trees import is_installed
from recap.evaluation.compare import headline_of
from recap.evaluation.drift import drift, read_sample
from recap.evaluation.importance import FeatureImportance, ValueImportance, importance, sample_of, value_importance
from recap.evaluation.result import Conflicts, SplitResult
from recap.evaluation.sides import Side
from recap.reporting import Say
from recap.runtime import Runtime
from recap.text import plural


@dataclass(frozen=True)
class Sections:
    """What samples of the split and of the training rows say, as plain values; see `Content`."""

    findings: Sequence[Finding] = ()
    importance: Mapping[str, Any] = field(default_factory=dict)
    value_importance: Mapping[str, Any] = field(default_factory=dict)
    drift: Mapping[str, Any] = field(default_factory=dict)
    conflicts: Conflicts = field(default_factory=dict)
    window: Mapping[str, str] = field(default_factory=dict)
    """When the training rows end, and when the split begins."""
    remarks: Sequence[str] = ()


NO_SECTIONS = Sections()
_VALUE_ROWS = 4096
"""Rows for the importance of single values, which takes a backward pass for each task."""


def sampled_sections(
    side: Side, config: RecapConfig, split: str, result: SplitResult, runtime: Runtime, say: Say
) -> Sections:
    """The sections that score samples of rows; those that need training files which are gone say so in a remark."""
    scorer, assets, remarks = side.model.scorer(config, runtime.device), side.model.assets, list[str]()
    sample = read_sample(config, assets, split)
    shift = None
    try:
        shift = drift(config, assets, scorer, read_sample(config, assets), sample)
    except DataError as error:
        remarks.append(f"Without drift, because the training data cannot be read: {error}")
    rows = sample_of(sample)
    say(f"feature importance: scoring {len(rows):,} rows for each of {plural(len(config.features.inputs), 'feature')}")
    important = importance(scorer, rows, config, assets)
    values = value_importance(scorer, sample_of(sample, _VALUE_ROWS), config, assets)
    trees = ", and boosted trees" if is_installed() else ""
    say(f"checks: comparing with training rows{trees}")
    evidence = gather(
        config,
        assets,
        scorer,
        split,
        result,
        runtime,
        side.records(),
        slices=result.slices,
        drift=shift,
        importance=important,
    )
    times = {"training rows end": evidence.overlap.training_ends, "split begins": evidence.overlap.split_starts}
    return Sections(
        find(evidence),
        importance_by_task(important, list(result.metrics)),
        values_by_task(values, list(result.metrics)),
        shift.to_json() if shift is not None else {},
        evidence.conflicts,
        {name: shown(time) for name, time in times.items() if time is not None},
        remarks,
    )


def importance_by_task(features: Sequence[FeatureImportance], tasks: Sequence[str]) -> dict[str, Any]:
    """Feature or group → task → [loss of the headline metric, low, high]."""
    return {
        feature.name: {
            task: [losses[name].value, losses[name].low, losses[name].high]
            for task, losses in feature.losses.items()
            if task in tasks and (name := headline_of(losses)) is not None
        }
        for feature in features
    }


def values_by_task(features: Sequence[ValueImportance], tasks: Sequence[str]) -> dict[str, Any]:
    """Task → feature → [name of a value, how much it moves the logit], the largest first."""
    return {
        task: {item.feature: [[name, moved] for name, moved in item.values] for item in features if item.task == task}
        for task in (tasks if features else ())
    }
