"""Backtests: training up to a time, and evaluation on what comes next."""

from typing import Literal

from recap.config.base import BaseConfig, Globs, NonNegativeInt, PositiveInt


class BacktestConfig(BaseConfig):
    """How `recap backtest` trains and evaluates in the order of time: each window is evaluated by a model that was
    trained on earlier windows only."""

    inputs: Globs | None = None
    """A glob or globs of files by time, in the format of `train_data.source`. Optional; default: those of
    `train_data.source`."""
    window: Literal["day", "hour", "file"] = "day"
    """The files that make one window: those of a day or an hour, by the dates in their paths, else by
    `features.timestamp`; or each file."""
    first: PositiveInt = 1
    """Number of windows to train on before the first evaluation."""
    gap: NonNegativeInt = 0
    """Number of windows between training and evaluation, as when labels or a new model take that long to arrive."""
    mode: Literal["retrain", "continue"] = "retrain"
    """`retrain` trains a new model on all earlier windows; `continue` trains the previous model further, on the windows
    that it has not seen."""
    epochs: PositiveInt = 1
    """Passes over the new windows in mode `continue`."""
    holdout: NonNegativeInt = 0
    """Number of windows at the end that no fold reads, for one evaluation of the last model with `--holdout-final`."""
