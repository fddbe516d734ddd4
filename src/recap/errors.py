"""The errors a user can meet. Each says what was found, what is accepted and what to do next.

RecapError               exit code 1
├── InputError           exit code 2: the user gave something that cannot be used
│   ├── ConfigError      a configuration file, an override, or what they say together
│   ├── DataError        a file, a column or a row
│   └── CheckpointError  a run, a checkpoint or a model directory
└── RunError             a run that began well and failed
"""

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
    was_said: bool | None = None
    """Whether another process of the same run has told the user already; none: that was not looked up."""


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
