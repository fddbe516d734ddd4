"""Signals that ask a run to stop: which work they interrupt, which is finished first, and the exceptions they raise."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class StopNow(BaseException):
    """A signal interrupts the current work, and the run saves. Not an Exception, so that nothing handles it as one."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Terminated(BaseException):
    """A signal ends the command."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Signals:
    """SIGINT and SIGTERM received so far, and which work they may interrupt by raising StopNow."""

    def __init__(self, grace_seconds: float, *, may_interrupt: bool = True) -> None:
        """Half of `grace_seconds` after the first signal, slow work is interrupted; the other half is for saving.

        `may_interrupt=False` never interrupts, for a process on which others wait.
        """
        self.received: list[int] = []
        """Signal numbers in order of arrival."""
        self.grace = grace_seconds / 2
        """Seconds after the first signal until `interruptible_when_late` is interrupted."""
        self._may_interrupt = may_interrupt
        self._late = False
        self._interruptible = self._interruptible_when_late = False

    def __bool__(self) -> bool:
        """Whether a signal arrived."""
        return bool(self.received)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """A block that loses nothing when it is interrupted: StopNow is raised as soon as a signal arrives."""
        before, self._interruptible = self._interruptible, True
        try:
            self._interrupt()
            yield
        finally:
            self._interruptible = before

    @contextmanager
    def interruptible_when_late(self) -> Iterator[None]:
        """A block that should be finished: StopNow is raised only when `grace` is over."""
        before, self._interruptible_when_late = self._interruptible_when_late, True
        try:
            self._interrupt()
            yield
        finally:
            self._interruptible_when_late = before

    def receive(self, number: int) -> None:
        """Record SIGINT or SIGTERM."""
        self.received.append(number)
        if len(self.received) == 1:
            # Repeated, since an exception is lost where Python cannot raise it, such as in a destructor.
            signal.setitimer(signal.ITIMER_REAL, self.grace, self.grace)
            self._interrupt()

    def end_grace(self) -> None:
        """Interrupt slow work: `grace` is over."""
        self._late = True
        self._interrupt()

    def _interrupt(self) -> None:
        """Raise StopNow if a signal arrived and the current work may be interrupted."""
        interruptible = self._interruptible or (self._interruptible_when_late and self._late)
        if self.received and self._may_interrupt and interruptible:
            raise StopNow(self.received[0])


@contextmanager
def collected_signals(grace_seconds: float = 30.0, *, may_interrupt: bool = True) -> Iterator[Signals]:
    """Collect SIGINT and SIGTERM, so that work stops where it can; a second SIGINT goes to the previous handler.

    Python sets handlers in the main thread only. In any other thread no signal is collected.
    """
    signals = Signals(grace_seconds, may_interrupt=may_interrupt)
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGALRM:
            signals.end_grace()
        elif signals and number == signal.SIGINT:
            previous = before[number]
            if callable(previous):
                previous(number, frame)
            raise KeyboardInterrupt
        else:
            signals.receive(number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
    before: dict[int, Any] = {number: signal.getsignal(number) for number in numbers}
    try:
        for number in before:
            signal.signal(number, handle)
        yield signals
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """SIGINT and SIGTERM raise Terminated at any point of the block."""

    def handle(number: int, frame: FrameType | None) -> None:
        raise Terminated(number)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
