"""The tasks that a fitted calibration makes worse on other rows: left as they were, or warned of."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from recap.errors import InputError
from recap.evaluation.calibrate.gain import SplitGain
from recap.evaluation.metrics.estimate import Difference
from recap.model.calibration import FittedCalibration
from recap.reporting import Say


def without_worse(fitted: FittedCalibration, gains: Sequence[SplitGain], folder: Path, say: Say) -> FittedCalibration:
    """`fitted` with its `gains`, without the tasks whose log loss certainly rose on a split.

    Certain: the interval of 95% of the change is above 0. Other tasks whose log loss rose stay, with a warning.
    `folder`: the model directory to calibrate. Raises InputError unless a task that stays is better on a split, or has
    too few rows on all of them to show a change.
    """
    left, doubtful, useful = dict(fitted.left), False, False
    for task in fitted.tasks:
        changes = {gain.split: gain.tasks[task].log_loss for gain in gains if task in gain.tasks}
        worse = {split: change for split, change in changes.items() if change.high < 0}
        if worse:
            split, change = next(iter(worse.items()))
            left[task] = f"{_rise(change, split)}, worse than before"
            say(f"warning: {task}: {left[task]}; it is left as it was")
            continue
        useful |= not changes or any(change.value > 0 for change in changes.values())
        for split, change in changes.items():
            if change.value < 0:
                doubtful = True
                say(f"warning: {task}: {_rise(change, split)}, not better than before, though that may be chance")
    if not useful:
        raise InputError(
            f"--split: a calibration fitted on {fitted.split!r} makes no task better on other rows; nothing was "
            "written. Choose a split with more rows, or of days nearer to those to predict"
        )
    if doubtful:
        say(f"`recap calibrate {folder} --remove` takes the calibration off")
    tasks = {task: part for task, part in fitted.tasks.items() if task not in left}
    saved = [replace(gain, tasks={task: of for task, of in gain.tasks.items() if task in tasks}) for gain in gains]
    return fitted.model_copy(update={"tasks": tasks, "left": left, "gains": tuple(gain.to_json() for gain in saved)})


def _rise(change: Difference, split: str) -> str:
    """`change`: of log loss, before minus after."""
    return f"log loss {-change.value:+.2g} on {split}"
