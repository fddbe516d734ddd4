"""`recap calibrate`: from a run and the name of a split to `calibration.json` and its gain on other rows."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from recap.config.data import SourceConfig
from recap.config.file.load import dump_config, stored_values
from recap.config.recap import RecapConfig
from recap.data.open import open_split
from recap.data.tools.shared import files_of, shared_with
from recap.distributed import ONE_RANK, Ranks
from recap.errors import InputError
from recap.evaluation.calibrate.gain import SplitGain, code_columns, measure_gain
from recap.evaluation.calibrate.rows import SplitRows, collect_rows
from recap.evaluation.calibrate.tasks import Calibrating, Method, check_feature, describe
from recap.evaluation.calibrate.worse import without_worse
from recap.evaluation.run import check_splits, chosen_model, evaluation_config, quiet
from recap.model.calibration import FittedCalibration
from recap.model.directory import CALIBRATION, SavedModel, copy_model, open_model
from recap.reporting import Say, say_to_stderr
from recap.runs import STATE, Step, find_model_directory
from recap.runtime import Runtime, start_runtime
from recap.storage import MANIFEST, add_file, read_manifest, remove_file
from recap.text import plural

TRAINING = ("train", "train_data", "training")
"""Names by which a user may mean the training split, unless a validation set has that name."""
HALVES = "the other half of its users"


@dataclass(frozen=True)
class Fit:
    """What to fit, where to show the gain, and where to save it."""

    split: str
    method: Method = "affine"
    by: str | None = None
    evaluate_on: str | None = None
    """A validation set; by default all others, or half of the users of `split` if there is none."""
    step: Step | None = None
    output: Path | None = None
    """A folder for a calibrated copy; by default the checkpoint itself is calibrated."""
    overwrite: bool = False


@dataclass(frozen=True)
class Calibrated:
    """The result of a calibration."""

    file: Path
    """The `calibration.json`."""
    fitted: FittedCalibration
    gains: Sequence[SplitGain]
    """Also of the tasks that got worse and are left as they were."""


def calibrate_run(
    config: RecapConfig,
    run: Path,
    fit: Fit,
    say: Say = say_to_stderr,
    show: Callable[[SplitGain], None] = lambda gain: None,
    ranks: Ranks = ONE_RANK,
) -> Calibrated | None:
    """Fit a calibration of a checkpoint of `run` on a validation set of `config`, and save it.

    `show` gets the gain on each split, before anything is saved. Under torchrun every rank calls it and scores a share
    of the rows; rank 0 fits and saves, and the others return None. Raises InputError for the training split, an unknown
    split or feature, a calibrated model without `overwrite`, or if the calibration makes no task better.
    """
    for option, split in (("--split", fit.split), ("--evaluate-on", fit.evaluate_on)):
        if split is not None:
            _check_split(config, split, option)
    folder = chosen_model(run, fit.step, ranks)
    if ranks.is_first:
        _check_target(folder, fit)
    else:
        say = quiet
    model = open_model(folder, calibrated=False)
    combined = evaluation_config(config, model.config, folder)
    ranks.check_equal({"the configuration": dump_config(combined), "the model": (folder / MANIFEST).read_text()})
    if fit.by is not None:
        check_feature(combined, fit.by)
    _check_rows(config, model, fit, say)
    others = _other_splits(config, model, fit, say)
    runtime = start_runtime(ranks)
    inputs = stored_values(config)["validation_data"][fit.split]["source"]["inputs"]
    calibrating = Calibrating(combined, model.assets, fit.split, inputs, fit.method, fit.by)
    if not ranks.is_first:
        for split in (fit.split, *others):
            _collected(model, calibrating, split, runtime, say)
        ranks.gather("calibrated", None)  # rank 0 may fit for a while after the last rows
        return None
    rows = _rows(model, calibrating, fit.split, runtime, say)
    fitted = calibrating.fit(rows)
    say(f"fitted {plural(len(fitted.tasks), 'task')} on {fit.split}, {_size(rows)}")
    for line in describe(fitted):
        say(f"  {line}")
    if not fitted.tasks:
        raise InputError(f"--split: no task can be calibrated on {fit.split!r}; nothing was written")
    gains = [
        measure_gain(_rows(model, calibrating, split, runtime, say), fitted, combined, split) for split in others
    ] or [_gain_on_half(calibrating, rows)]
    for gain in gains:
        if unseen := [task for task in fitted.tasks if task not in gain.tasks]:
            say(f"{gain.split}: too few rows to show the gain of {', '.join(unseen)}")
        show(gain)
    fitted = without_worse(fitted, gains, fit.output or folder, say)
    calibrated = Calibrated(_save(folder, fitted, fit), fitted, gains)
    ranks.gather("calibrated", None)
    return calibrated


def remove_calibration(run: Path, step: Step | None = None) -> Path:
    """Delete the calibration of a checkpoint; return its folder. Raises InputError if it has none."""
    folder = find_model_directory(run, step)
    if CALIBRATION not in read_manifest(folder).files:
        raise InputError(f"{folder}: has no calibration to remove")
    _check_writable(folder)
    remove_file(folder, CALIBRATION)
    return folder


def _check_split(config: RecapConfig, split: str, option: str) -> None:
    if split in TRAINING and split not in config.validation_data:
        raise InputError(
            f"{option}: the model fits the rows that it was trained on too well; choose a validation set: "
            f"{', '.join(config.validation_data) or 'add one to validation_data'}"
        )
    check_splits(config, split)


def _check_target(folder: Path, fit: Fit) -> None:
    """Raise InputError if the calibration cannot be saved."""
    if fit.output is None and CALIBRATION in read_manifest(folder).files and not fit.overwrite:
        raise InputError(f"{folder}: is calibrated already; add --overwrite to fit it again, or --remove to undo it")
    if fit.output is None:
        _check_writable(folder)
    elif os.path.lexists(fit.output):
        if not (fit.output / MANIFEST).is_file() or (fit.output / STATE).exists():
            raise InputError(f"--output: {fit.output} exists and is not a calibrated copy; choose another --output")
        if not fit.overwrite:
            raise InputError(f"--output: {fit.output} already exists; add --overwrite to replace it")


def _check_writable(folder: Path) -> None:
    if not os.access(folder, os.W_OK):
        raise InputError(f"{folder}: cannot be written; add --output FOLDER for a calibrated copy")


def _check_rows(config: RecapConfig, model: SavedModel, fit: Fit, say: Say) -> None:
    """Raise InputError if the model was trained on the rows to fit on, or the gain would be shown on the same rows."""
    if not files_of(model.config.train_data.source):
        say(f"the training files are not here, so nothing shows whether {fit.split} holds rows of them")
    for option, split in (("--split", fit.split), ("--evaluate-on", fit.evaluate_on)):
        if split is None:
            continue
        for trained in _training_sources(config, model):
            if shared := shared_with(trained, _source(config, split)):
                raise InputError(
                    f"{option}: {split!r} holds {shared[0]}, which the model was trained on, so its probabilities are "
                    "better there than on other rows; choose another split"
                )
    if fit.evaluate_on is not None and (
        fit.evaluate_on == fit.split or shared_with(_source(config, fit.split), _source(config, fit.evaluate_on))
    ):
        raise InputError(
            f"--evaluate-on: {fit.evaluate_on!r} has the rows that the calibration is fitted on; choose another split, "
            "or leave it out"
        )


def _other_splits(config: RecapConfig, model: SavedModel, fit: Fit, say: Say) -> list[str]:
    """The splits on which to show the gain: without rows that the model or the calibration is fitted on."""
    if fit.evaluate_on is not None:
        return [fit.evaluate_on]
    others = []
    for name in config.validation_data:
        fitted_on = [("train_data", trained) for trained in _training_sources(config, model)]
        fitted_on.append((fit.split, _source(config, fit.split)))
        shared = [other for other, source in fitted_on if shared_with(source, _source(config, name))]
        if name != fit.split and shared:
            say(f"{name}: not evaluated, since it shares files with {shared[0]}")
        elif name != fit.split:
            check_splits(config, name)
            others.append(name)
    return others


def _training_sources(config: RecapConfig, model: SavedModel) -> list[SourceConfig]:
    """What the checkpoint was trained on, whatever is overridden; and where `config` says that those rows are now."""
    trained, asked = model.config.train_data.source, config.train_data.source
    return [trained] if asked == trained else [trained, asked]


def _source(config: RecapConfig, split: str) -> SourceConfig:
    return config.validation_data[split].source


def _gain_on_half(calibrating: Calibrating, rows: SplitRows) -> SplitGain:
    """The gain on half of the users, of a calibration of the other half."""
    half = rows.buckets % 2 == 0
    fitted = calibrating.fit(rows.select(half))
    return measure_gain(rows.select(~half), fitted, calibrating.config, f"{calibrating.split}, {HALVES}")


def _rows(model: SavedModel, calibrating: Calibrating, split: str, runtime: Runtime, say: Say) -> SplitRows:
    """The rows of a split, with the probabilities of the model without its fitted calibration; on rank 0."""
    rows = _collected(model, calibrating, split, runtime, say)
    assert rows is not None
    if rows.is_sample:
        say(f"{split}: {_size(rows)}")
    return rows


def _collected(model: SavedModel, calibrating: Calibrating, split: str, runtime: Runtime, say: Say) -> SplitRows | None:
    """As `_rows`, of which each rank scores a share; None on all but rank 0."""
    config = calibrating.config
    stream = open_split(config, model.assets, split, say)
    runtime.ranks.check_equal({f"the files of {split}": str(stream.source.contents)})
    columns = code_columns(config, calibrating.by)
    return collect_rows(model.scorer(config, runtime.device), stream, columns, runtime.ranks)


def _size(rows: SplitRows) -> str:
    sample = f"a fair sample of {len(rows):,} of " if rows.is_sample else ""
    return f"{sample}{rows.total:,} rows"


def _save(folder: Path, fitted: FittedCalibration, fit: Fit) -> Path:
    """Write the calibration into `folder` or a copy; return its file."""
    text = fitted.model_dump_json(indent=1) + "\n"
    if fit.output is None:
        add_file(folder, CALIBRATION, text)
    else:
        copy_model(folder, fit.output, {CALIBRATION: text})
    return (fit.output or folder) / CALIBRATION
