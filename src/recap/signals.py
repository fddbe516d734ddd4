"""Signals that ask a run to stop: what it gives up for them, what it finishes first, and the error that says it did."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class StopNow(BaseException):
    """A signal ends what is being done, and the run saves. Not an Exception, so that nothing takes it for a failure."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Terminated(BaseException):
    """A signal ends everything."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Signals(list[int]):
    """SIGINT and SIGTERM as they arrived, while work goes on; parts of it may be given up for them by StopNow."""

    def __init__(self, grace_seconds: float, *, gives_up: bool = True) -> None:
        """Half of `grace_seconds` after the first signal, what takes too long is given up; the rest is for saving.

        Without `gives_up` nothing is: others wait for what this process does.
        """
        super().__init__()
        self.gives_up = gives_up
        self.patience = grace_seconds / 2
        self._late = False
        self._at_once = self._when_late = False

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """What is done here loses nothing when it is given up: StopNow is raised as soon as a signal arrives."""
        before, self._at_once = self._at_once, True
        try:
            self._stop_if_due()
            yield
        finally:
            self._at_once = before

    @contextmanager
    def when_late(self) -> Iterator[None]:
        """What is done here should be finished, but not at any price: StopNow is raised when patience is at its end."""
        before, self._when_late = self._when_late, True
        try:
            self._stop_if_due()
            yield
        finally:
            self._when_late = before

    def arrived(self, number: int) -> None:
        """Take in SIGINT or SIGTERM."""
        self.append(number)
        if len(self) == 1:
            # Again and again, since an exception is lost where Python cannot raise it, such as in a destructor.
            signal.setitimer(signal.ITIMER_REAL, self.patience, self.patience)
            self._stop_if_due()

    def patience_ended(self) -> None:
        """Give up what is only waited for."""
        self._late = True
        self._stop_if_due()

    def _stop_if_due(self) -> None:
        if self and self.gives_up and (self._at_once or (self._when_late and self._late)):
            raise StopNow(self[0])


@contextmanager
def collected_signals(grace_seconds: float = 30.0, *, gives_up: bool = True) -> Iterator[Signals]:
    """Collect SIGINT and SIGTERM, to stop where work allows it; a second SIGINT is answered as it was before."""
    received = Signals(grace_seconds, gives_up=gives_up)

    def handle(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGALRM:
            received.patience_ended()
        elif received and number == signal.SIGINT:
            answer = before[number]
            if callable(answer):
                answer(number, frame)
            raise KeyboardInterrupt
        else:
            received.arrived(number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
    before: dict[int, Any] = {number: signal.getsignal(number) for number in numbers}
    try:
        for number in before:
            signal.signal(number, handle)
        yield received
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """SIGINT and SIGTERM raise Terminated wherever the work is."""

    def handle(number: int, frame: FrameType | None) -> None:
        raise Terminated(number)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
