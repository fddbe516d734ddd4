"""What checks look at; everything but the evaluation itself is optional, and checks without evidence are silent."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from recap.config.recap import RecapConfig
from recap.data.tools.leaks import ColumnAuc
from recap.evaluation.drift import Drift
from recap.evaluation.importance import FeatureImportance
from recap.evaluation.metrics.estimate import Difference, Estimates
from recap.evaluation.result import Conflicts, SplitResult
from recap.evaluation.slices import Slices


@dataclass(frozen=True)
class Overlap:
    """What a split has in common with the training rows, by a sample of both."""

    training_ends: int | None = None
    """The latest time of the training rows, in microseconds since 1970; None without `features.timestamp`."""
    split_starts: int | None = None
    files: Sequence[str] = ()
    """Files of the split that are training files too."""
    shared: int = 0
    """Sampled rows of the split that equal a sampled training row."""
    rows: int = 0
    """Sampled rows of the split."""
    repeated: float = 0.0
    """The share of training rows that equal another one, as far as the samples of both sizes tell."""


@dataclass(frozen=True)
class Evidence:
    """A trained model, evaluated on a split."""

    config: RecapConfig
    split: str
    result: SplitResult
    training: Estimates = field(default_factory=dict)
    """The metrics on a sample of the training rows."""
    records: Sequence[Mapping[str, Any]] = ()
    """Those of `metrics.jsonl`."""
    slices: Slices | None = None
    drift: Drift | None = None
    importance: Sequence[FeatureImportance] = ()
    leaks: Sequence[ColumnAuc] = ()
    overlap: Overlap = Overlap()
    conflicts: Conflicts = field(default_factory=dict)
    trees: Mapping[str, Difference] = field(default_factory=dict)
    """Task → AUC of the model minus that of boosted trees, on the same rows."""
