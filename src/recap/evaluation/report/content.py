"""`Content`: everything that a report shows. The page, the JSON and the model card are made of it alone."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from recap.evaluation.checks.finding import Finding
from recap.evaluation.metrics.estimate import Difference
from recap.evaluation.plain import to_plain
from recap.evaluation.result import TaskMetrics

State = Literal["better", "worse", "mixed", "unclear", "alone"]
"""The verdict against a baseline: better, worse, better in some and worse in other tasks, not to be told; or none."""


@dataclass(frozen=True)
class Measured:
    """One metric of one task, with its interval of 95%, of the model and of the baseline."""

    value: float
    low: float = math.nan
    high: float = math.nan
    baseline: float = math.nan
    change: Difference | None = None
    """The model minus the baseline, paired by buckets of users; None without a baseline, or without estimates."""


@dataclass(frozen=True)
class TaskResult:
    """The metrics of a task, or of the final score."""

    task: str
    is_regression: bool
    metrics: Mapping[str, Measured]


@dataclass(frozen=True)
class Verdict:
    """What the first screen says."""

    state: State
    headline: str
    text: str


@dataclass(frozen=True)
class Content:
    """A report. Fields that are mappings or lists of plain values are shown as they are; empty ones are left out."""

    title: str
    """The name of the run."""
    model: str
    """The name of the checkpoint."""
    split: str
    rows: int
    """Rows of the split with a weight above 0, of the task that has most."""
    users: int
    """Distinct users; 0 if the data have no users."""
    verdict: Verdict
    tasks: Sequence[TaskResult]
    score: TaskResult | None = None
    """The metrics of the final score."""
    baseline: str = ""
    """The name of the baseline and its checkpoint; empty without one."""
    remarks: Sequence[str] = ()
    """What limits the report, such as tasks that the baseline does not have."""
    findings: Sequence[Finding] = ()
    """The checks that failed."""
    checked: bool = False
    """Whether the checks ran."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """See `training_curves`; for the run, and for the baseline if that is a run."""
    curves: Mapping[str, Any] = field(default_factory=dict)
    """`model` and `baseline` → task → the curves of the task."""
    uncalibrated: TaskMetrics = field(default_factory=dict)
    """The metrics of probabilities before calibration, of the tasks that it changes."""
    strata: Mapping[str, Any] = field(default_factory=dict)
    """Stratum → task → metric → value."""
    slices: Mapping[str, Any] = field(default_factory=dict)
    """See `Slices.to_json`."""
    importance: Mapping[str, Any] = field(default_factory=dict)
    """Group of features → task → [loss of the metric, low, high]."""
    value_importance: Mapping[str, Any] = field(default_factory=dict)
    """Task → feature → [[name of a value, how much it moves the logit], …]; see `value_importance`."""
    gates: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    conflicts: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    drift: Mapping[str, Any] = field(default_factory=dict)
    """See `Drift.to_json`."""
    what_if: Mapping[str, Any] = field(default_factory=dict)
    """The lists that the sliders of the weights re-rank; see `ListSample.to_json`."""
    config_changes: Sequence[Sequence[str]] = ()
    """[path, value of the baseline, value of the run] of every setting that differs."""
    facts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Heading → name → text: data, time, versions, hardware, checksums."""

    def to_json(self) -> dict[str, Any]:
        """The content of `report.json`; numbers that are undefined are null."""
        values: dict[str, Any] = to_plain(self)
        return values
