"""Signals that ask a run to stop, and the error that says it did."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from recap.errors import RecapError


class Interrupted(RecapError):
    """A signal asked the run to stop; its state is saved."""

    def __init__(self, number: int, step: int) -> None:
        super().__init__(
            f"stopped by {signal.Signals(number).name} after step {step}, which is saved; "
            "run the same command again to go on"
        )
        self.exit_code = 128 + number


@contextmanager
def collected_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM, to stop between two steps; a second SIGINT stops at once."""
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
