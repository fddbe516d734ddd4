"""The result of an evaluation: by split, and as the file `evaluation.json`."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from recap.errors import InputError
from recap.evaluation.drift import Drift
from recap.evaluation.metrics.estimate import Estimate, Estimates
from recap.evaluation.plain import from_plain, numbers, to_plain
from recap.evaluation.slices import Slices
from recap.reporting import Record
from recap.runs import Run
from recap.storage import atomic_write, replace_text, writing

TaskMetrics = Mapping[str, Mapping[str, float]]
"""Task → metric → value; NaN where a metric is undefined."""
Gates = Mapping[str, Mapping[str, float]]
"""Gate → expert → mean weight; the weights of a gate sum to 1."""
Conflicts = Mapping[str, Mapping[str, float]]
"""Task → task → mean cosine similarity of their gradients; NaN where one of the two never has a gradient."""
Intervals = Mapping[str, Mapping[str, tuple[float, float]]]
"""Task → metric → (low, high)."""
SCORE = "(score)"
"""The final score among tasks."""


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
    data: Any = field(default_factory=dict)
    """The `source.inputs` of the split."""
    model: str = ""
    """The checkpoint, if it is not that of the report: the result of an earlier evaluation."""
    intervals: Intervals = field(default_factory=dict)
    """Of 95 %; of the metrics that have one."""
    users: int = 0
    """Distinct users, or rows where the data have no users; an estimate beyond `metrics.rows.MAX_ROWS` rows."""
    rows: str = ""
    """A fingerprint of users, labels and weights: equal for evaluations of the same rows, in any order."""
    rows_by_task: Mapping[str, str] = field(default_factory=dict)
    """The same of each task; not in `evaluation.json`."""
    estimates: Estimates = field(default_factory=dict)
    """The value of each metric without each bucket of users."""
    score: Mapping[str, float] = field(default_factory=dict)
    """The metrics of the final score; its intervals and estimates are those of `SCORE`."""
    uncalibrated: TaskMetrics = field(default_factory=dict)
    """The metrics of probabilities before calibration; of the tasks that it changes."""
    slices: Slices | None = None
    """The slices that do worse than the other rows, if `slices` of the configuration asks for them."""
    drift: Drift | None = None
    """The shift from the training rows, if it is asked for."""


@dataclass(frozen=True)
class EvaluationReport:
    """The result of one checkpoint, by split."""

    model: str
    """The name of the checkpoint."""
    splits: Mapping[str, SplitResult]
    overrides: Sequence[str] = ()
    """Those of the configuration of the run."""

    def model_of(self, split: str) -> str:
        """The name of the checkpoint with which a split was evaluated."""
        return self.splits[split].model or self.model

    def to_json(self) -> dict[str, Any]:
        """The content of `evaluation.json`: sections by split, without those that no split has."""
        sections: dict[str, dict[str, Any]] = {
            "strata": {name: split.strata for name, split in self.splits.items() if split.strata},
            "gates": {name: split.gates for name, split in self.splits.items() if split.gates},
            "conflicts": {name: split.conflicts for name, split in self.splits.items() if split.conflicts},
            "unknown": {name: split.unknown for name, split in self.splits.items() if split.unknown},
            "data": {name: split.data for name, split in self.splits.items() if split.data},
            "models": {name: split.model for name, split in self.splits.items() if split.model},
            "intervals": {name: split.intervals for name, split in self.splits.items() if split.intervals},
            "uncalibrated": {name: split.uncalibrated for name, split in self.splits.items() if split.uncalibrated},
            "score": {name: split.score for name, split in self.splits.items() if split.score},
            "users": {name: split.users for name, split in self.splits.items() if split.users},
            "rows": {name: split.rows for name, split in self.splits.items() if split.rows},
            "slices": {name: split.slices.to_json() for name, split in self.splits.items() if split.slices is not None},
            "drift": {name: split.drift.to_json() for name, split in self.splits.items() if split.drift is not None},
        }
        content: dict[str, Any] = {"model": self.model}
        if self.overrides:
            content["overrides"] = list(self.overrides)
        content["splits"] = {name: split.metrics for name, split in self.splits.items()}
        encoded: dict[str, Any] = to_plain(content | {name: part for name, part in sections.items() if part})
        return encoded

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`. Raises AttributeError, KeyError, TypeError or ValueError for invalid content."""
        values = {name: content.get(name, {}) for name in ("data", "models", "users", "rows", "slices", "drift")}
        decoded = {name: from_plain(part) for name, part in content.items() if name not in ("model", *values)}
        sections = {name: _of_splits(decoded.get(name, {}), depth) for name, depth in _SECTIONS.items()}
        return cls(
            str(content["model"]),
            {
                split: SplitResult(
                    metrics,
                    **{name: part.get(split, {}) for name, part in sections.items()},
                    data=values["data"].get(split, {}),
                    model=values["models"].get(split, ""),
                    users=int(values["users"].get(split, 0)),
                    rows=str(values["rows"].get(split, "")),
                    slices=Slices.from_json(values["slices"][split]) if split in values["slices"] else None,
                    drift=Drift.from_json(values["drift"][split]) if split in values["drift"] else None,
                )
                for split, metrics in _of_splits(decoded["splits"], 2).items()
            },
            tuple(content.get("overrides", ())),
        )

    def write(self, file: Path, *, keep_others: bool = False) -> None:
        """Write the report as JSON, and estimates beside it, see `estimates_file`. Raises RunError.

        `keep_others`: with the splits that only the file has.
        """
        splits = dict(self.splits)
        if keep_others:
            with suppress(InputError):
                before = self.read_file(file)
                with suppress(InputError):  # damaged estimates; the metrics are kept
                    before = self.read_estimates(file)
                for name, result in before.splits.items():
                    model = before.model_of(name)
                    splits.setdefault(name, replace(result, model="" if model == self.model else model))
        report = replace(self, splits=splits)
        _write_estimates(estimates_file(file), splits)
        replace_text(file, json.dumps(report.to_json(), indent=1, allow_nan=False) + "\n")

    @classmethod
    def read(cls, run: Run) -> Self:
        """The `evaluation.json` of a run. Raises InputError if it is missing or damaged."""
        return cls.read_file(run.evaluation_file)

    @classmethod
    def read_file(cls, file: Path) -> Self:
        """A report from its file. Raises InputError if it is missing or damaged."""
        try:
            return cls.from_json(json.loads(file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise InputError(f"{file}: no such file; run 'recap evaluate {file.parent}' first") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise InputError(f"{file}: damaged; run 'recap evaluate {file.parent}' again") from None

    @classmethod
    def read_estimates(cls, file: Path) -> Self:
        """A report with its estimates, as far as the file beside it has them. Raises InputError as `read_file`."""
        report = cls.read_file(file)
        beside = estimates_file(file)
        try:
            read = _read_estimates(beside, report.splits) if beside.exists() else {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError):
            raise InputError(f"{beside}: damaged; run 'recap evaluate {file.parent}' again") from None
        splits = {name: replace(split, estimates=read.get(name, {})) for name, split in report.splits.items()}
        return replace(report, splits=splits)


_SECTIONS = {"strata": 3, "gates": 2, "conflicts": 2, "unknown": 1, "intervals": 2, "score": 1, "uncalibrated": 2}
"""Section of `evaluation.json` → the depth of its mappings in a split."""


def _of_splits(section: Any, depth: int) -> dict[str, Any]:
    """Split → mappings of this depth with numbers or intervals. Raises AttributeError, TypeError or ValueError."""
    return {split: numbers(part, depth) for split, part in section.items()}


def estimates_file(file: Path) -> Path:
    """The file with the replicates of the estimates of a report: beside it, with the suffix `.safetensors`."""
    return file.with_suffix(".safetensors")


def _write_estimates(file: Path, splits: Mapping[str, SplitResult]) -> None:
    """Write the replicates: [metrics, G] float64 for each task of a split that its metadata names."""
    arrays: dict[str, npt.NDArray[np.float64]] = {}
    names: dict[str, str] = {}
    for split, result in splits.items():
        for task, metrics in result.estimates.items():
            if metrics:
                key = str(len(arrays))
                arrays[key] = np.stack([estimate.replicates for estimate in metrics.values()])
                names[key] = json.dumps({"split": split, "rows": result.rows, "task": task, "metrics": list(metrics)})
    with writing(file):
        if arrays:
            with atomic_write(file) as temporary:
                temporary.write_bytes(save(arrays, names))
        else:
            file.unlink(missing_ok=True)


def _read_estimates(file: Path, splits: Mapping[str, SplitResult]) -> dict[str, dict[str, dict[str, Estimate]]]:
    """Split → task → metric → estimate. Those of other rows than the report's are left out: a write was cut short."""
    read: dict[str, dict[str, dict[str, Estimate]]] = {}
    with safe_open(file, "numpy") as tensors:
        names = {key: text for key, text in tensors.metadata().items() if key.isdigit()}
        for key in sorted(names, key=int):
            name = json.loads(names[key])
            result = splits.get(name["split"])
            if result is not None and result.rows == name["rows"]:
                if tensors.get_slice(key).get_dtype() != "F64" or len(tensors.get_slice(key).get_shape()) != 2:
                    raise ValueError("replicates are [metrics, buckets] float64")
                values = result.score if name["task"] == SCORE else result.metrics[name["task"]]
                pairs = zip(name["metrics"], tensors.get_tensor(key), strict=True)
                estimates = {metric: Estimate(values[metric], row) for metric, row in pairs}
                read.setdefault(name["split"], {})[name["task"]] = estimates
    return read


def records(step: int, split: str, metrics: TaskMetrics) -> Iterator[Record]:
    """The lines of metrics.jsonl and evaluations.jsonl: one record per task, undefined values as None."""
    for task, values in metrics.items():
        yield {"step": step, "split": split, "task": task, **to_plain(values)}
