"""A tracker that cannot stop a run."""

import time
from collections import deque
from collections.abc import Callable

from recap.reporting import Record, Tracker


class Guarded:
    """A tracker that cannot stop a run: what fails is told once and held, and tried again later and at the end."""

    RETRY_S = 60.0
    """Seconds before the next try, so that a server that hangs takes little of the time of training."""
    MAX_HELD = 10_000
    """Records; the oldest are lost beyond it."""

    def __init__(self, name: str, opened: Callable[[], Tracker], say: Callable[[str], None]) -> None:
        """`opened` opens the tracker, and is called until it does."""
        self._name, self._opened, self._say = name, opened, say
        self._tracker: Tracker | None = None
        self._held: deque[Record] = deque()
        self._lost, self._failing, self._next_try = 0, False, 0.0
        self._deliver()

    def log(self, record: Record) -> None:
        """Hand the record on, after those that are held."""
        self._held.append(record)
        if len(self._held) > self.MAX_HELD:
            self._held.popleft()
            self._lost += 1
        if time.monotonic() >= self._next_try:
            self._deliver()

    def close(self, *, finished: bool) -> None:
        """Try for the last time, and tell what is lost."""
        if self._held or self._tracker is None:
            self._deliver()
        try:
            if self._tracker is not None:
                self._tracker.close(finished=finished)
        except Exception as error:
            self._say(f"{self._name}: cannot be closed ({_reason(error)}); its last records may be missing")
        lost = self._lost + len(self._held)
        if lost:
            self._say(f"{self._name}: {lost:,} record{'s' if lost > 1 else ''} could not be written")

    def _deliver(self) -> None:
        try:
            if self._tracker is None:
                self._tracker = self._opened()
            while self._held:
                self._tracker.log(self._held[0])
                self._held.popleft()
        except Exception as error:
            self._next_try = time.monotonic() + self.RETRY_S
            if not self._failing:
                self._say(
                    f"{self._name}: cannot be written ({_reason(error)}). Training goes on; what is logged is held, "
                    f"and tried again every {self.RETRY_S:.0f} s and at the end"
                )
            self._failing = True
            return
        if self._failing:
            self._say(f"{self._name}: can be written again")
        self._failing = False


def _reason(error: Exception) -> str:
    """What went wrong, in a line that is not too long."""
    text = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _LONG else f"{text[:_LONG]}…"


_LONG = 200
