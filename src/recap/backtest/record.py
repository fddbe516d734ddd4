"""What a backtest has done: `backtest.json`, from which a repeated command continues."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from recap.backtest.windows import Window
from recap.config.file.diff import check_unchanged
from recap.config.file.load import dump_config
from recap.config.recap import RecapConfig
from recap.errors import CheckpointError, InputError
from recap.evaluation.plain import from_plain, numbers, to_plain
from recap.evaluation.result import SplitResult, TaskMetrics
from recap.storage import replace_text

RECORD, CONFIG, CHART, HOLDOUT = "backtest.json", "backtest.yaml", "backtest.svg", "holdout.json"
"""The files of a backtest in its folder, beside the run of each fold."""
_FREE = (
    ("training", "save_dir"),
    ("training", "watch"),
    ("validation_data",),
    ("train_data", "source", "inputs"),
    ("backtest", "inputs"),
)
"""What may change in the configuration: a backtest replaces it, or compares the files themselves."""
_DEPTHS = {"metrics": 2, "intervals": 2, "features": 1, "predictions": 1}
"""The mappings of a `Measured` → their depth."""
Interval = tuple[float, float]
Pair = tuple[float, float]


@dataclass(frozen=True)
class Measured:
    """A model evaluated on rows that are later than those it was trained on."""

    model: str
    """Its checkpoint, relative to the folder of the backtest."""
    rows: int
    metrics: TaskMetrics
    intervals: Mapping[str, Mapping[str, Interval]]
    """Task → metric → its interval of 95 %."""
    features: Mapping[str, float]
    """Feature → population stability index against the training rows, largest first."""
    predictions: Mapping[str, Pair]
    """Task → mean prediction of training rows, and of the rows evaluated; both of a sample."""

    @classmethod
    def of(cls, model: str, rows: int, result: SplitResult) -> Self:
        """From an evaluation with drift."""
        assert result.drift is not None
        return cls(
            model,
            rows,
            result.metrics,
            {task: dict(values) for task, values in result.intervals.items() if task in result.metrics},
            {feature.feature: feature.psi for feature in result.drift.features},
            {task.task: task.mean_prediction for task in result.drift.tasks},
        )


@dataclass(frozen=True)
class Fold(Measured):
    """One window, evaluated by a model trained before it."""

    window: str = ""
    trained_on: tuple[str, ...] = ()
    """The windows of its training rows; with `mode: continue` those that are new."""


@dataclass(frozen=True)
class HoldoutUse(Measured):
    """An evaluation of the hold-out."""

    at: str = ""
    """The time of the evaluation in UTC."""
    windows: tuple[str, ...] = ()


@dataclass(frozen=True)
class Record:
    """The content of `backtest.json`."""

    windows: Sequence[Window]
    holdout: int
    """How many of the last windows are the hold-out."""
    folds: Sequence[Fold] = ()
    """The finished folds, in the order of time."""
    holdout_uses: Sequence[HoldoutUse] = field(default_factory=tuple)
    """Every evaluation of the hold-out; one unless `--again` was given."""

    def with_fold(self, fold: Fold) -> "Record":
        """With one more finished fold."""
        return replace(self, folds=(*self.folds, fold))

    def with_holdout_use(self, use: HoldoutUse) -> "Record":
        """With one more evaluation of the hold-out."""
        return replace(self, holdout_uses=(*self.holdout_uses, use))

    def to_json(self) -> dict[str, Any]:
        """Plain values; undefined ones are null."""
        content: dict[str, Any] = to_plain(self)
        return content

    @classmethod
    def read(cls, file: Path) -> Self:
        """The record in a file. Raises InputError if it is damaged."""
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            windows = [_window(item) for item in content["windows"]]
            folds = [Fold(**_measured(item)) for item in content["folds"]]
            uses = [HoldoutUse(**_measured(item)) for item in content["holdout_uses"]]
            names = {window.name for window in windows}
            if any(not fold.trained_on or not names.issuperset((fold.window, *fold.trained_on)) for fold in folds):
                raise ValueError("a fold has windows that the backtest does not have")
            return cls(tuple(windows), int(content["holdout"]), tuple(folds), tuple(uses))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise InputError(f"{file}: damaged; restore it from a copy, or choose another --output") from None

    def write(self, folder: Path) -> None:
        """Write `backtest.json` in a folder. Raises RunError."""
        replace_text(folder / RECORD, json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n")


def open_record(config: RecapConfig, folder: Path, windows: Sequence[Window]) -> Record:
    """The record in `folder`, or a new one, which is written with the configuration.

    Raises InputError for a folder that no backtest wrote, CheckpointError if the configuration or the files changed:
    new windows may follow the old ones, unless there is a hold-out, which is fixed.
    """
    new = Record(tuple(windows), config.backtest.holdout)
    if not (folder / RECORD).exists():
        if folder.exists() and any(folder.iterdir()):
            raise InputError(f"--output: {folder} is not empty, and holds no {RECORD}; choose another --output")
        folder.mkdir(parents=True, exist_ok=True)
        replace_text(folder / CONFIG, dump_config(config))
        new.write(folder)
        return new
    before = Record.read(folder / RECORD)
    if not (folder / CONFIG).exists():
        raise InputError(f"{folder / CONFIG}: no such file; restore it from a copy, or choose another --output")
    problem = "this backtest began with another configuration; restore it, or choose another --output"
    check_unchanged(config, folder / CONFIG, _FREE, problem)
    _check_windows(before, windows, folder)
    return replace(before, windows=tuple(windows))


def _check_windows(before: Record, windows: Sequence[Window], folder: Path) -> None:
    advice = "restore the files, or choose another --output"
    for old, new in zip(before.windows, windows, strict=False):
        if old != new:
            problem = f"the files of {old.name} changed" if old.name == new.name else f"{new.name} is in its place"
            raise CheckpointError(f"{folder}: this backtest began with other data ({problem}); {advice}")
    if len(windows) < len(before.windows):
        raise CheckpointError(f"{folder}: {before.windows[len(windows)].name} of this backtest has no files; {advice}")
    if before.holdout and len(windows) > len(before.windows):
        raise CheckpointError(
            f"{folder}: {windows[len(before.windows)].name} is new, but this backtest has a hold-out, which is fixed; "
            "name the files in backtest.inputs without the new ones, or choose another --output"
        )


def _measured(item: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = from_plain(item)
    return values | {name: numbers(values[name], depth) for name, depth in _DEPTHS.items()}


def _window(item: Mapping[str, Any]) -> Window:
    window = Window(**from_plain(item))
    return replace(window, times=None) if item["times"] is None else window
