"""`backtest`: trains and evaluates fold by fold, and evaluates the hold-out once."""

import gc
from collections.abc import Sequence
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from recap.backtest.chart import write_chart
from recap.backtest.record import HOLDOUT, Fold, HoldoutUse, Measured, Record, open_record
from recap.backtest.windows import FoldPlan, Window, find_windows, plan_folds
from recap.config.base import KeyPath, dotted
from recap.config.data import DailyInputs, HourlyInputs, ValidationDataConfig
from recap.config.recap import RecapConfig
from recap.data.tools.outputs import check_folder
from recap.errors import CheckpointError, InputError
from recap.evaluation.asked import validated
from recap.evaluation.run import evaluate_run
from recap.reporting import Reporter
from recap.runs import Run
from recap.text import plural
from recap.training.trainer import train

NEXT = "next"
"""The validation set of a fold: the window that it evaluates."""


def backtest(config: RecapConfig, folder: Path, reporter: Reporter) -> Record:
    """Run every fold that `folder` does not hold yet; return all of them.

    The run of each fold is in `folder`, under the name of the window that it evaluates. Raises InputError for too few
    windows, CheckpointError for a folder of another backtest, and what `train` and `evaluate_run` raise.
    """
    check_folder(folder)
    _check_not_among_inputs(config, folder)
    _check_secrets(config)
    windows = find_windows(config)
    folds = plan_folds(config, windows)
    record = open_record(config, folder, windows)
    for remark in _remarks(config, windows):
        reporter.say(remark)
    previous: Path | None = None
    for number, plan in enumerate(folds, start=1):
        run = Run(folder / plan.evaluate.name)
        if number > len(record.folds):
            reporter.say(f"fold {number} of {len(folds)}: {_described(plan)}")
            record = record.with_fold(_run_fold(config, plan, run, previous, reporter))
            record.write(folder)
            write_chart(record, config.regressions, folder)
        if config.backtest.mode == "continue":
            previous = run.path
        gc.collect()  # free the model of the fold before the next one is built
    return record


def evaluate_holdout(config: RecapConfig, folder: Path, record: Record, reporter: Reporter, *, again: bool) -> Record:
    """Evaluate the last model on the hold-out, and record it.

    Raises InputError without a hold-out, CheckpointError if it was evaluated before, unless `again`.
    """
    held = record.windows[len(record.windows) - record.holdout :] if record.holdout else ()
    if not held:
        raise InputError("--holdout-final: this backtest has no hold-out; start one with --holdout K in another folder")
    if record.holdout_uses and not again:
        use = record.holdout_uses[-1]
        raise CheckpointError(
            f"{folder}: the hold-out ({', '.join(use.windows)}) was evaluated at {use.at} with {use.model}; a choice "
            "made with its result makes the next one too good. Add --again to evaluate it anyway, which is recorded"
        )
    last = record.folds[-1]
    plan = FoldPlan(tuple(w for w in record.windows if w.name in last.trained_on), _joined(held))
    run = Run(folder / last.window)
    measured = _measure(_fold_config(config, plan, run.path, None), run, plan, reporter, folder / HOLDOUT)
    at = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    use = HoldoutUse(**vars(measured), at=at, windows=tuple(window.name for window in held))
    record = record.with_holdout_use(use)
    record.write(folder)
    return record


def _run_fold(config: RecapConfig, plan: FoldPlan, run: Run, previous: Path | None, reporter: Reporter) -> Fold:
    fold = _fold_config(config, plan, run.path, previous)
    train(fold, reporter)
    measured = _measure(fold, run, plan, reporter)
    names = tuple(window.name for window in plan.train)
    return Fold(**vars(measured), window=plan.evaluate.name, trained_on=names)


def _measure(config: RecapConfig, run: Run, plan: FoldPlan, reporter: Reporter, output: Path | None = None) -> Measured:
    """Evaluate the last checkpoint of a run on the window of a fold. `output`: see `evaluate_run`."""
    report = evaluate_run(config, run.path, NEXT, say=reporter.say, output=output, with_drift=True)
    model = f"{run.path.name}/checkpoints/{report.model}"
    return Measured.of(model, plan.evaluate.rows, report.splits[NEXT])


def _fold_config(config: RecapConfig, plan: FoldPlan, save_dir: Path, previous: Path | None) -> RecapConfig:
    """The configuration of the run of a fold. `previous`: the run that it continues."""
    values = config.model_dump()
    training, data = values["training"], values["train_data"]
    data["source"] |= {"inputs": _paths(plan.train), "num_files_to_keep": None}
    if data["readers"]["kind"] == "service":  # data servers know the files of their own configuration
        data["readers"] = {"kind": "threads"}
    later: dict[str, Any] = {key: value for key, value in data.items() if key in ValidationDataConfig.model_fields}
    later["source"] = data["source"] | {"inputs": list(plan.evaluate.files)}
    values["validation_data"] = {NEXT: later}
    # Nothing may choose by the window that is evaluated.
    training |= {"save_dir": str(save_dir), "eval_log_every_n": None, "watch": None}
    if previous is not None:
        training |= {"initial_checkpoint_dir": str(previous), "initial_weights": None}
        data["num_epochs"] = config.backtest.epochs
    fold = validated(values, save_dir)
    replaced: tuple[KeyPath, ...] = (
        ("validation_data",),
        *(("training", name) for name in ("save_dir", "watch")),
        *(("training", name) for name in ("initial_checkpoint_dir", "initial_weights") if previous is not None),
    )
    fold.remember_secrets(
        {path: text for path, text in config.secrets.items() if not any(path[: len(at)] == at for at in replaced)}
    )
    return fold


def _paths(windows: Sequence[Window]) -> list[str]:
    return [file for window in windows for file in window.files]


def _joined(windows: Sequence[Window]) -> Window:
    """Several windows as one."""
    files = tuple(_paths(windows))
    return Window("holdout", files, sum(window.rows for window in windows), 0, None)


def _check_not_among_inputs(config: RecapConfig, folder: Path) -> None:
    """Raise InputError for a folder in which a glob would find the Parquet files of checkpoints as data."""
    inputs = config.train_data.source.inputs if config.backtest.inputs is None else config.backtest.inputs
    if isinstance(inputs, HourlyInputs | DailyInputs):
        return
    for pattern in inputs:
        start, recursive, names = pattern.partition("**/")
        finds_assets = bool(recursive) and fnmatch("assets.parquet", names)
        if finds_assets and "://" not in start and folder.absolute().is_relative_to(Path(start).absolute()):
            raise InputError(
                f"--output: {folder} is where {pattern} looks for data, so its files would be read as data; choose "
                "another --output"
            )


def _check_secrets(config: RecapConfig) -> None:
    """Raise InputError for files whose names would reveal a secret."""
    for path in config.secrets:
        if path[:3] == ("train_data", "source", "inputs") or path[:2] == ("backtest", "inputs"):
            raise InputError(
                f"{dotted(path)}: holds a secret, and a backtest records the names of its files; give the credentials "
                "of the store in the environment instead"
            )


def _remarks(config: RecapConfig, windows: Sequence[Window]) -> list[str]:
    """What a user should know about the order of time before the folds begin."""
    remarks = []
    if windows[0].times is None:
        remarks.append("the order of the windows is that of their names, because features.timestamp is not set")
    if config.training.watch is not None:
        remarks.append("training.watch is off in a backtest: it would choose by the window that a fold evaluates")
    if config.training.initial_checkpoint_dir is not None:
        remarks.append(
            f"every fold starts from {config.training.initial_checkpoint_dir}; a model trained on rows of these "
            "windows would know the future"
        )
    return remarks


def _described(plan: FoldPlan) -> str:
    first, last = plan.train[0], plan.train[-1]
    span = first.name if first is last else f"{first.name} to {last.name}"
    rows = sum(window.rows for window in plan.train)
    return (
        f"training on {span} ({plural(rows, 'row')}), evaluated on {plan.evaluate.name} "
        f"({plural(plan.evaluate.rows, 'row')})"
    )
