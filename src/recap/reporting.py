"""The outputs of a run: a reporter for a person, trackers for files and servers."""

import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

Say = Callable[[str], None]
"""Shows a line of text to the user."""
Record = Mapping[str, float | int | str | None]
"""A flat mapping: `step`, `split`, `task` for the metrics of one task, and named values."""


def say_to_stderr(text: str) -> None:
    """Print `text` to standard error, if that can be written: the default `Say`."""
    with suppress(OSError):
        print(text, file=sys.stderr)


class Tracker(Protocol):
    """Stores the records of a run in the order of steps. Any call may fail; `Guarded` handles that."""

    def log(self, record: Record) -> None:
        """Store the record completely, or raise and store none of it."""

    def close(self, *, finished: bool) -> None:
        """Write buffered records; `finished`: whether the run has finished its last step."""


class Reporter:
    """Shows the progress of a run. This class shows nothing; override the methods you need."""

    def start(self, save_dir: Path, step: int, steps: int, train_rows: int, epochs: float, setup: str) -> None:
        """Training starts, or resumes after `step`, and ends at step `steps`: `epochs` passes over `train_rows`.

        `setup`: the size of the model, the device and the precision, as text.
        """

    def advance(self, step: int, loss: float, examples: int, losses: Mapping[str, float], waited: float) -> None:
        """A step over `examples` rows finished: its loss, the loss of each task, and the seconds it waited for data."""

    def logged(self, record: Record) -> None:
        """A record of training losses was logged."""

    def evaluated(self, step: int, split: str, evaluation: Mapping[str, Mapping[str, float]]) -> None:
        """A split was evaluated: task → metric → value."""

    def say(self, text: str) -> None:
        """Show a message."""

    def stop(self) -> None:
        """Training ended, successfully or not."""
