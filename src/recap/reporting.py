"""Whom a run reports to: a person (reporter) and files or servers (trackers)."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

Say = Callable[[str], None]
"""Shows a line of text to a person."""
Record = Mapping[str, float | int | str | None]
"""A flat mapping: `step`, `split`, `task` for the metrics of one task, and named values."""


def say_to_stderr(text: str) -> None:
    """Print `text` to standard error: the default `Say`."""
    print(text, file=sys.stderr)


class Tracker(Protocol):
    """Stores the records of a run, in order of steps. Any call may fail; `Guarded` handles that."""

    def log(self, record: Record) -> None:
        """Store one record completely, or raise and store nothing of it."""

    def close(self, *, finished: bool) -> None:
        """Write what is still buffered; `finished`: no step of the run is left."""


class Reporter:
    """Shows a person the progress of a run. This one shows nothing; override what you want to show."""

    def start(self, save_dir: Path, step: int, steps: int, train_rows: int, epochs: float, on: str) -> None:
        """Training starts, or resumes after `step`, and runs to step `steps`, `epochs` passes over `train_rows`.

        `on`: the device and precision, as text.
        """

    def advance(self, step: int, loss: float, examples: int, losses: Mapping[str, float], waited: float) -> None:
        """A step over `examples` rows is done: its loss, the loss of each task, and seconds spent waiting for data."""

    def logged(self, record: Record) -> None:
        """A record of training losses was logged."""

    def evaluated(self, step: int, split: str, evaluation: Mapping[str, Mapping[str, float]]) -> None:
        """A validation set was evaluated: task → metric → value."""

    def say(self, text: str) -> None:
        """Show a message."""

    def stop(self) -> None:
        """Training ended, successfully or not."""
