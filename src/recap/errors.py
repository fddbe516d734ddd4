"""The errors a user can meet. Each message says what was found, what is accepted and what to do next.

RecapError               exit code 1
├── InputError           exit code 2: the user gave something that cannot be used
│   ├── ConfigError      a configuration file, an override, or sections that contradict each other
│   ├── DataError        a file, a column or a row
│   └── CheckpointError  a run, a checkpoint or a model directory
├── RunError             a run that failed after it started
│   ├── LostRank         another process of the run died or hangs
│   └── NotFinite        a loss, gradient or running statistic of a step is not finite
├── Interrupted          exit code 128 + signal: a signal stopped training
└── CommandStopped       exit code 128 + signal: a signal stopped a command that goes on where it stopped
"""

import signal
from collections.abc import Sequence
from dataclasses import dataclass

_MAX_SHOWN = 5
"""Names listed in one message."""
MAX_PROBLEMS = 100
"""Problems listed in one error."""
_MAX_CHARACTERS = 2000
"""Characters of a path or text of a problem; both may contain names and values from a file."""


@dataclass(frozen=True)
class Origin:
    """Where a configuration value comes from: a file with line and column, counted from 1, or an override (line 0)."""

    source: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source


@dataclass(frozen=True)
class Problem:
    """One mistake in a configuration: its origin, its dotted key path ("" for the whole file), and the message."""

    origin: Origin
    path: str
    text: str

    def __str__(self) -> str:
        parts = (
            part if len(part) <= _MAX_CHARACTERS else f"{part[:_MAX_CHARACTERS]}…" for part in (self.path, self.text)
        )
        return ": ".join(filter(None, (str(self.origin), *parts)))


class RecapError(Exception):
    """Any error that recap reports to its user; the command line prints the message without a traceback."""

    exit_code = 1


class InputError(RecapError):
    """Unusable input; nothing was changed."""

    exit_code = 2


class ConfigError(InputError):
    """An invalid configuration; the message has one line per problem."""

    def __init__(self, problems: str | Sequence[Problem]) -> None:
        """At most `MAX_PROBLEMS` are listed."""
        listed = [] if isinstance(problems, str) else list(problems[:MAX_PROBLEMS])
        if len(listed) < len(problems) and listed:
            listed.append(Problem(Origin(listed[0].origin.source), "", "and more problems; fix these first"))
        self.problems = tuple(listed)
        super().__init__(problems if isinstance(problems, str) else "\n".join(map(str, listed)))


class DataError(InputError):
    """Unusable data; the message names the file, column and row if they are known."""

    def __init__(
        self, message: str, rows: Sequence[int] = (), column: str | None = None, reason: str | None = None
    ) -> None:
        """`rows`: indices of the bad rows, if the other rows of the chunk can be read without them.

        `column`: the bad column, if one is. `reason`: the message without file, column and row; default: all of it.
        """
        super().__init__(message)
        self.rows = tuple(rows)
        self.column = column
        self.reason = message if reason is None else reason


class CheckpointError(InputError):
    """A run, checkpoint or model directory that is missing, damaged, or does not fit the model."""


class ChangedRun(CheckpointError):
    """A run that cannot be resumed, because its configuration changed."""

    def __init__(self, message: str, changes: Sequence[str]) -> None:
        """`changes`: those that need a new run, one line each."""
        super().__init__(message)
        self.changes = tuple(changes)


class RunError(RecapError):
    """A run that failed after it started, for example because the disk is full."""


class LostRank(RunError):
    """Another rank died or hangs, and this one cannot continue without it."""


class NotFinite(RunError):
    """A loss, gradient or running statistic of a step is not finite; the weights were not changed."""

    def __init__(self, step: int, kind: str, names: Sequence[str]) -> None:
        """`kind`: "loss", "gradient", "norm" or "running statistic"; `names`: its tasks, parameters or buffers."""
        self.kind = kind
        more = f" and {len(names) - _MAX_SHOWN} more" if len(names) > _MAX_SHOWN else ""
        super().__init__(
            f"step {step}: the {kind} of {', '.join(names[:_MAX_SHOWN])}{more} is not finite; "
            "the weights were not changed"
        )


class Interrupted(RecapError):
    """A signal stopped the run; finished steps are saved."""

    def __init__(self, number: int, step: int, *, done: bool = True) -> None:
        """`step`: the last saved step, 0 without one. `done`: whether this process finished a step, and saved it."""
        if done:
            progress = f"after step {step}, which is saved"
        elif step:
            progress = f"before another step finished; the checkpoint of step {step} is unchanged"
        else:
            progress = "before the first step finished; nothing was saved"
        action = "resume" if step else "start over"
        super().__init__(
            f"stopped by {signal.Signals(number).name} {progress}. To {action}, run the same command again"
        )
        self.exit_code = 128 + number


class CommandStopped(RecapError):
    """A signal stopped `recap evaluate --follow` or `recap tune`; what they finished is written."""

    def __init__(self, number: int, progress: str) -> None:
        """`progress`: how far the command came, as text."""
        super().__init__(f"stopped by {signal.Signals(number).name}; {progress}")
        self.exit_code = 128 + number
