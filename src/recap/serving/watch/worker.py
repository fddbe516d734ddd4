"""`Worker`: one thread for what must not delay requests, behind a queue that is bounded in number and bytes."""

from collections import deque
from collections.abc import Callable
from threading import Condition, Thread

_ITEMS = 1000
_BYTES = 64 << 20
_TICK_SECONDS = 1.0


class Worker:
    """Runs jobs in the order in which they came. What a job raises is given to `failed`."""

    def __init__(self, tick: Callable[[], None], failed: Callable[[Exception], None]) -> None:
        """`tick` runs in the thread about once a second."""
        self._tick, self._failed = tick, failed
        self._jobs: deque[tuple[Callable[[], None], int]] = deque()
        self._bytes, self._ended = 0, False
        self._changed = Condition()
        self._thread: Thread | None = None

    def submit(self, job: Callable[[], None], size: int) -> bool:
        """Run `job`, which keeps `size` bytes, some time; False if the queue is full or the worker has ended."""
        with self._changed:
            if self._ended or len(self._jobs) >= _ITEMS or self._bytes + size > _BYTES:
                return False
            self._jobs.append((job, size))
            self._bytes += size
            self._start()
            self._changed.notify()
        return True

    def close(self, last: Callable[[], None], seconds: float) -> bool:
        """Finish what waits, then `last`, for at most `seconds`; return whether all is done."""
        with self._changed:
            if self._ended:
                return True
            self._jobs.append((last, 0))
            self._ended = True
            self._changed.notify()
            self._start()
        assert self._thread is not None
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _start(self) -> None:
        if self._thread is None:
            self._thread = Thread(target=self._run, name="recap-watch", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._jobs and not self._ended:
                    self._changed.wait(_TICK_SECONDS)
                if not self._jobs and self._ended:
                    return
                job, size = self._jobs.popleft() if self._jobs else (self._tick, 0)
            try:
                job()
            except Exception as error:
                self._failed(error)
            del job
            with self._changed:
                self._bytes -= size
