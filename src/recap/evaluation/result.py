"""The result of an evaluation: by split, and as the file `evaluation.json`."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from recap.errors import InputError
from recap.reporting import Record
from recap.runs import Run
from recap.storage import replace_text

TaskMetrics = Mapping[str, Mapping[str, float]]
"""Task → metric → value; NaN where a metric is undefined."""
Gates = Mapping[str, Mapping[str, float]]
"""Gate → expert → mean weight; the weights of a gate sum to 1."""
Conflicts = Mapping[str, Mapping[str, float]]
"""Task → task → mean cosine similarity of their gradients; NaN where one of the two never has a gradient."""


@dataclass(frozen=True)
class SplitResult:
    """The result on one validation set."""

    metrics: TaskMetrics
    strata: Mapping[str, TaskMetrics] = field(default_factory=dict)
    """Stratum → the metrics of its rows."""
    gates: Gates = field(default_factory=dict)
    """Empty for a model without gates."""
    conflicts: Conflicts = field(default_factory=dict)
    """Empty unless the run balances gradients."""
    unknown: Mapping[str, float] = field(default_factory=dict)
    """Feature → share of its values that are unknown, missing or not finite, without shares of 0."""


@dataclass(frozen=True)
class EvaluationReport:
    """The result of one checkpoint, by split."""

    model: str
    """The name of the checkpoint."""
    splits: Mapping[str, SplitResult]

    def to_json(self) -> dict[str, Any]:
        """The content of `evaluation.json`: sections by split, without those that no split has."""
        sections: dict[str, dict[str, Any]] = {
            "strata": {name: split.strata for name, split in self.splits.items() if split.strata},
            "gates": {name: split.gates for name, split in self.splits.items() if split.gates},
            "conflicts": {name: split.conflicts for name, split in self.splits.items() if split.conflicts},
            "unknown": {name: split.unknown for name, split in self.splits.items() if split.unknown},
        }
        content = {"model": self.model, "splits": {name: split.metrics for name, split in self.splits.items()}}
        encoded: dict[str, Any] = _nan_to_null(content | {name: part for name, part in sections.items() if part})
        return encoded

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`. Raises KeyError, TypeError or ValueError for invalid content."""
        decoded = {name: _null_to_nan(part) for name, part in content.items() if name != "model"}
        sections = {name: decoded.get(name, {}) for name in ("strata", "gates", "conflicts", "unknown")}
        return cls(
            str(content["model"]),
            {
                split: SplitResult(metrics, **{name: part.get(split, {}) for name, part in sections.items()})
                for split, metrics in dict(decoded["splits"]).items()
            },
        )

    def write(self, run: Run) -> None:
        """Write the `evaluation.json` of a run. Raises RunError."""
        replace_text(run.evaluation_file, json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n")

    @classmethod
    def read(cls, run: Run) -> Self:
        """The result of the last `recap evaluate` of a run. Raises InputError if it is missing or damaged."""
        file = run.evaluation_file
        try:
            return cls.from_json(json.loads(file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise InputError(f"{file}: no such file; run 'recap evaluate {run.path}' first") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise InputError(f"{file}: damaged; run 'recap evaluate {run.path}' again") from None


def records(step: int, split: str, metrics: TaskMetrics) -> Iterator[Record]:
    """The lines of metrics.jsonl and evaluations.jsonl: one record per task, undefined values as None."""
    for task, values in metrics.items():
        yield {"step": step, "split": split, "task": task, **_nan_to_null(values)}


def _nan_to_null(value: Any) -> Any:
    """JSON has no NaN: undefined values become null."""
    if isinstance(value, Mapping):
        return {key: _nan_to_null(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _null_to_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _null_to_nan(item) for key, item in value.items()}
    return math.nan if value is None else value
