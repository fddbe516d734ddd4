"""A wrapper that keeps a failing tracker from stopping the run."""

import time
from collections import deque
from collections.abc import Callable
from typing import Self

from recap.config.file.environment import hide
from recap.reporting import Record, Say, Tracker
from recap.text import plural

_MAX_REASON = 200
"""Characters of an error that are shown."""


class Guarded:
    """Wraps a tracker that may fail: reports a failure once, buffers the records, and retries."""

    RETRY_S = 60.0
    """Seconds between tries, so that a server that hangs takes little training time."""
    MAX_BUFFERED = 10_000
    """Number of records; when there are more, the oldest are lost."""

    def __init__(self, name: str, opener: Callable[[], Tracker], say: Say) -> None:
        """`opener` opens the tracker; it is called at the first record, and again until it succeeds."""
        self._name, self._opener, self._say = name, opener, say
        self._tracker: Tracker | None = None
        self._buffer: deque[Record] = deque()
        self._lost, self._failing, self._next_try = 0, False, 0.0

    @classmethod
    def open(cls, name: str, opener: Callable[[], Tracker], say: Say) -> Self:
        """Open the tracker now, so that a failure is reported at the start."""
        guarded = cls(name, opener, say)
        guarded._deliver()
        return guarded

    def log(self, record: Record) -> None:
        """Log the record, after the buffered ones."""
        self._buffer.append(record)
        if len(self._buffer) > self.MAX_BUFFERED:
            self._buffer.popleft()
            self._lost += 1
        if time.monotonic() >= self._next_try:
            self._deliver()

    def close(self, *, finished: bool) -> None:
        """Try for the last time, and report the number of lost records."""
        if self._buffer or self._tracker is None:
            self._deliver()
        try:
            if self._tracker is not None:
                self._tracker.close(finished=finished)
        except Exception as error:
            self._say(f"{self._name}: cannot be closed ({_reason(error)}); its last records may be missing")
        lost = self._lost + len(self._buffer)
        if lost:
            self._say(f"{self._name}: {plural(lost, 'record')} could not be written")

    def _deliver(self) -> None:
        try:
            if self._tracker is None:
                self._tracker = self._opener()
            while self._buffer:
                self._tracker.log(self._buffer[0])
                self._buffer.popleft()
        except Exception as error:
            self._next_try = time.monotonic() + self.RETRY_S
            if not self._failing:
                self._say(
                    f"{self._name}: cannot be written ({_reason(error)}). The run continues; records are buffered and "
                    f"retried every {self.RETRY_S:.0f} s and at the end"
                )
            self._failing = True
            return
        if self._failing:
            self._say(f"{self._name}: can be written again")
        self._failing = False


def _reason(error: Exception) -> str:
    """The message of an error on one line, shortened after its secrets are hidden: the start of one would not be."""
    text = hide(getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__)
    return text if len(text) <= _MAX_REASON else f"{text[:_MAX_REASON]}…"
