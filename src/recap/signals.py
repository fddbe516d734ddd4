"""Signals that stop a run: the work they interrupt, the work that finishes first, and the exceptions they raise."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from recap.errors import RecapError


class StopNow(BaseException):
    """A signal interrupts the current work so that the run can save; a BaseException, so that no handler catches it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Terminated(BaseException):
    """A signal ends the command."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Signals:
    """The signals received so far, and whether they may interrupt the current work by raising StopNow."""

    def __init__(self, grace_seconds: float, *, may_interrupt: bool = True) -> None:
        """Slow work is interrupted after half of `grace_seconds`; the other half is for saving.

        `may_interrupt=False` never interrupts, for a process that other ranks wait for.
        """
        self.received: list[int] = []
        """Signal numbers in order of arrival."""
        self.grace = grace_seconds / 2
        """Seconds after the first signal until `interruptible_when_late` is interrupted."""
        self._may_interrupt = may_interrupt
        self._late = self._raised = False
        self._interruptible = self._interruptible_when_late = False

    def __bool__(self) -> bool:
        """Whether a signal arrived."""
        return bool(self.received)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """For work that can be interrupted without loss: a signal raises StopNow immediately."""
        before, self._interruptible = self._interruptible, True
        try:
            with self._only_stop_now():
                self._interrupt()
                yield
        finally:
            self._interruptible = before

    @contextmanager
    def interruptible_when_late(self) -> Iterator[None]:
        """For work that should finish: a signal raises StopNow only after `grace` seconds."""
        before, self._interruptible_when_late = self._interruptible_when_late, True
        try:
            with self._only_stop_now():
                self._interrupt()
                yield
        finally:
            self._interruptible_when_late = before

    @contextmanager
    def _only_stop_now(self) -> Iterator[None]:
        """Once StopNow was raised in the block, it also leaves the block as StopNow.

        A handler runs between any two instructions, so that code that it interrupts may fail while it cleans up: a lock
        that `threading.Condition.wait` did not take back is a RuntimeError, which would replace StopNow.
        """
        self._raised = False
        try:
            yield
        except Exception as error:
            if self._raised:
                raise StopNow(self.received[0]) from error
            raise

    def receive(self, number: int) -> None:
        """Record a SIGINT, SIGTERM or SIGHUP, and start the grace period."""
        self.received.append(number)
        if len(self.received) == 1:
            # Repeated, since an exception is lost where Python cannot raise it, such as in a destructor.
            signal.setitimer(signal.ITIMER_REAL, self.grace, self.grace)
            self._interrupt()

    def end_grace(self) -> None:
        """The grace period is over: interrupt slow work."""
        self._late = True
        self._interrupt()

    def _interrupt(self) -> None:
        """Raise StopNow if a signal arrived and the current work may be interrupted."""
        interruptible = self._interruptible or (self._interruptible_when_late and self._late)
        if self.received and self._may_interrupt and interruptible:
            self._raised = True
            raise StopNow(self.received[0])


@contextmanager
def collected_signals(grace_seconds: float = 30.0, *, may_interrupt: bool = True) -> Iterator[Signals]:
    """Collect SIGINT, SIGTERM and SIGHUP for the block; a second SIGINT goes to the previous handler.

    SIGHUP, which a closed terminal sends, stays ignored where `nohup` ignores it. Python allows handlers in the main
    thread only. In any other thread no signal is collected.
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

    before: dict[int, Any] = {number: signal.getsignal(number) for number in (*_ending(), signal.SIGALRM)}
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
    """SIGINT, SIGTERM and SIGHUP raise Terminated anywhere in the block, but after an import that they interrupt.

    An exception in an import may abort the process, as where compiled code of torch cannot pass it on. Other code may
    replace Terminated while it cleans up: any error after a signal, but a RecapError, becomes Terminated.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        if number != signal.SIGALRM:
            _terminating.append(number)
        if _importing(frame):
            signal.setitimer(signal.ITIMER_REAL, _IMPORT_SECONDS)
        else:
            raise_lost_signal()

    _terminating.clear()
    before = {number: signal.signal(number, handle) for number in (*_ending(), signal.SIGALRM)}
    try:
        yield
    except Exception as error:
        if not isinstance(error, RecapError):
            raise_lost_signal()
        raise
    finally:
        _terminating.clear()
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def _importing(frame: FrameType | None) -> bool:
    """Whether `frame` is part of an import."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


_IMPORT_SECONDS = 0.05
"""Time between two looks at whether an import has ended."""
_terminating: list[int] = []
"""The signals in the block of `stopped_by_signals`."""


def raise_lost_signal() -> None:
    """Raise Terminated if a signal arrived in the block of `stopped_by_signals`, but Terminated was lost.

    Python drops an exception that it cannot raise, such as in a destructor. Call this before waiting for other ranks,
    which the signal ended.
    """
    if _terminating:
        raise Terminated(_terminating[0])


def _ending() -> list[signal.Signals]:
    """The signals that end a command; not SIGHUP where it is ignored, as below `nohup`."""
    ignores_hangup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [signal.SIGINT, signal.SIGTERM, *([] if ignores_hangup else [signal.SIGHUP])]
