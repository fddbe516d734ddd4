"""The errors a user can meet. Each says what was found, what is accepted and what to do next.

RecapError               exit code 1
├── InputError           exit code 2: the user gave something that cannot be used
│   ├── ConfigError      a configuration file, an override, or sections that contradict each other
│   ├── DataError        a file, a column or a row
│   └── CheckpointError  a run, a checkpoint or a model directory
├── RunError             a run that started well and failed
│   ├── LostRank         another process of the run ended or hangs
│   └── NotFinite        a loss, gradient or running statistic of a step is not finite
├── Interrupted          exit code 128 + signal: a signal stopped training
└── FollowingStopped     exit code 128 + signal: a signal stopped `recap evaluate --follow`
"""

import signal
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Origin:
    """Where something was said: a place in a file (counted from 1), or an override (no line)."""

    source: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source


@dataclass(frozen=True)
class Problem:
    """One mistake: where it was said, the dotted path of what it is about ("" for the whole), and what is wrong."""

    origin: Origin
    path: str
    text: str

    def __str__(self) -> str:
        return ": ".join(filter(None, (str(self.origin), self.path, self.text)))


class RecapError(Exception):
    """Anything recap reports to its user; the command line prints the message, never a traceback."""

    exit_code = 1


class InputError(RecapError):
    """The user gave something that cannot be used; nothing was changed."""

    exit_code = 2


class ConfigError(InputError):
    """A configuration that cannot be used; the message lists every problem found, a line each."""

    def __init__(self, problems: str | Sequence[Problem]) -> None:
        self.problems = () if isinstance(problems, str) else tuple(problems)
        super().__init__(problems if isinstance(problems, str) else "\n".join(map(str, problems)))


class DataError(InputError):
    """Data that cannot be used; the message names file, column and row where they are known."""

    def __init__(self, message: str, rows: Sequence[int] = ()) -> None:
        """`rows` of what was being read are all that is wrong in this way: without them the rest can be read."""
        super().__init__(message)
        self.rows = tuple(rows)


class CheckpointError(InputError):
    """A run, checkpoint or model directory that is missing, damaged or does not fit."""


class RunError(RecapError):
    """A run that began well and failed, such as a loss that is not finite."""


_MAX_SHOWN = 5


class LostRank(RunError):
    """Another rank has ended, or hangs, and this one cannot go on without it."""


class NotFinite(RunError):
    """Losses, gradients or running statistics of a step are not finite; the weights were not moved."""

    def __init__(self, step: int, what: str, names: Sequence[str]) -> None:
        """`what` there is of each of `names`: tasks, parameters or buffers."""
        self.what = what
        more = f" and {len(names) - _MAX_SHOWN} more" if len(names) > _MAX_SHOWN else ""
        super().__init__(
            f"step {step}: the {what} of {', '.join(names[:_MAX_SHOWN])}{more} is not finite; "
            "the weights were not moved"
        )


class Interrupted(RecapError):
    """A signal asked the run to stop; what was done is saved."""

    def __init__(self, number: int, step: int, *, done: bool = True) -> None:
        """`done`: whether a step was done in this process; `step` is the last that is saved, 0 if there is none."""
        what = (
            f"after step {step}, which is saved"
            if done
            else f"before another step was done; the checkpoint of step {step} is as it was"
            if step
            else "before the first step was done; nothing was saved"
        )
        again = "go on" if step else "start again"
        super().__init__(f"stopped by {signal.Signals(number).name} {what}; run the same command again to {again}")
        self.exit_code = 128 + number


class FollowingStopped(RecapError):
    """A signal ended the following; what was evaluated is written."""

    def __init__(self, number: int, done: int) -> None:
        """`done`: the last step that was evaluated, 0 if there is none."""
        what = f"the last checkpoint evaluated is that of step {done}" if done else "no checkpoint was evaluated"
        super().__init__(f"stopped by {signal.Signals(number).name}; {what}")
        self.exit_code = 128 + number
