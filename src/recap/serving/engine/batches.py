"""`Batches`: requests that wait for the model, and the forward passes that they share.

A thread runs one pass at a time, in which torch uses one thread: passes of several requests side by side give more
throughput, and a more even latency, than one pass on several threads. A request waits for others only while a thread
is idle and others are being decoded; once all threads are busy, what waits is taken together by the next that is free.
"""

import asyncio
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch

from recap.config.serving.server import BatchingConfig
from recap.inference.predictor import Predictions
from recap.inference.requests import EncodedRequest
from recap.model.scorer import ScoreFormula
from recap.serving.contract import Reason, RequestError
from recap.serving.models.version import Version
from recap.serving.watch.watch import Watch

_WORTHWHILE = 256
"""Candidates from which on a second thread takes a share of what waits."""
ENDING = "the server is shutting down; ask another server"
_LANES = 64
"""Rows of a score formula, whose sums do not depend on the rows beside them then."""


@dataclass(eq=False)
class Waiting:
    """An encoded request that waits for the model."""

    version: Version
    encoded: EncodedRequest
    future: asyncio.Future[Predictions]
    """Done already if the client has left or the deadline has passed; then the model does not run."""
    weights: Mapping[str, float] | None = None
    since: float = field(default_factory=time.monotonic)
    started: float = 0.0
    """When its forward pass started."""


class Batches:
    """The requests that wait, by version, and the threads that score them. Methods run on the event loop."""

    def __init__(self, config: BatchingConfig, threads: int, watch: Watch) -> None:
        self._config, self._watch = config, watch
        self._window = config.window_ms / 1000
        self._pool = ThreadPoolExecutor(threads, "model", initializer=one_thread)
        self._idle = threads
        self._lanes: dict[Version, deque[Waiting]] = {}
        self._decoding: dict[Version, int] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self.waiting = 0
        """Requests that are being decoded, or wait for a thread."""

    def arriving(self, version: Version) -> None:
        """A request is being decoded; `submit` or `gone` follows."""
        self.waiting += 1
        self._decoding[version] = self._decoding.get(version, 0) + 1

    def gone(self, version: Version) -> None:
        """A request that was being decoded does not come."""
        self.waiting -= 1
        self._decoded(version)
        self._dispatch()

    async def submit(self, request: Waiting) -> Predictions:
        """The predictions of a request. Cancelling drops it, unless the model runs already.

        Raises RequestError after `close`.
        """
        self._decoded(request.version)
        if self._closed:
            raise RequestError(Reason.NOT_READY, ENDING)
        self._lanes.setdefault(request.version, deque()).append(request)
        self._dispatch()
        try:
            return await request.future
        finally:
            self._leave(request)

    def close(self) -> None:
        """Drop what waits, and let threads end."""
        for lane in self._lanes.values():
            for request in lane:
                if not request.future.done():
                    request.future.set_exception(RequestError(Reason.NOT_READY, ENDING))
        self._lanes.clear()
        self._closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _decoded(self, version: Version) -> None:
        self._decoding[version] -= 1
        if not self._decoding[version]:
            del self._decoding[version]

    def _leave(self, request: Waiting) -> None:
        """Take out a request that still waits: its client has left, or its deadline has passed."""
        lane = self._lanes.get(request.version)
        if request.started or lane is None or request not in lane:
            return
        lane.remove(request)
        self.waiting -= 1
        if not lane:
            del self._lanes[request.version]

    def _dispatch(self) -> None:
        """Start passes while there are idle threads and requests that need not wait for others."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = time.monotonic()
        for version in sorted(self._lanes, key=lambda version: self._lanes[version][0].since):
            lane = self._lanes[version]
            while self._idle and lane:
                ready_at = lane[0].since + self._window
                if now < ready_at and version in self._decoding and _candidates(lane) < self._config.max_candidates:
                    self._wake_at(ready_at - now)
                    break
                if batch := self._take(lane):
                    self._start(version, batch)
            if not lane:
                del self._lanes[version]

    def _wake_at(self, seconds: float) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._dispatch)

    def _take(self, lane: deque[Waiting]) -> list[Waiting]:
        """The next requests that still want an answer: a fair share of the lane for each idle thread, at least one."""
        share = max(-(-_candidates(lane) // self._idle), _WORTHWHILE)
        limit, batch, rows = min(share, self._config.max_candidates), list[Waiting](), 0
        while lane and (not batch or rows + lane[0].encoded.rows <= limit):
            request = lane.popleft()
            self.waiting -= 1
            if not request.future.done():
                batch.append(request)
                rows += request.encoded.rows
        return batch

    def _start(self, version: Version, batch: list[Waiting]) -> None:
        started = time.monotonic()
        for request in batch:
            request.started = started
        self._watch.batch(len(batch), sum(request.encoded.rows for request in batch))
        self._idle -= 1
        pending = asyncio.get_running_loop().run_in_executor(self._pool, _score, version, batch)
        pending.add_done_callback(lambda done: self._finished(batch, done))

    def _finished(self, batch: list[Waiting], done: "asyncio.Future[list[Predictions | Exception]]") -> None:
        self._idle += 1
        results: Sequence[Predictions | BaseException]
        if done.cancelled():
            results = [RequestError(Reason.NOT_READY, ENDING)] * len(batch)
        elif (error := done.exception()) is not None:
            results = [error] * len(batch)
        else:
            results = done.result()
        for request, result in zip(batch, results, strict=True):
            if request.future.done():
                continue
            if isinstance(result, BaseException):
                request.future.set_exception(result)
            else:
                request.future.set_result(result)
        self._dispatch()


def one_thread() -> None:
    """Let torch compute with one thread, in the thread that calls this."""
    torch.set_num_threads(1)


def _candidates(lane: deque[Waiting]) -> int:
    return sum(request.encoded.rows for request in lane)


def _score(version: Version, batch: list[Waiting]) -> list[Predictions | Exception]:
    """The predictions of each request, or its error: one that cannot be scored does not fail those beside it."""
    try:
        predictions = version.scorer.score([request.encoded for request in batch])
    except Exception as error:
        if len(batch) == 1:
            return [error]
        return [result for request in batch for result in _score(version, [request])]
    return [weighted(version, request.weights, result) for request, result in zip(batch, predictions, strict=True)]


def weighted(version: Version, weights: Mapping[str, float] | None, predictions: Predictions) -> Predictions:
    """The predictions, with the score of the weights of a request if it has its own."""
    if weights is None:
        return predictions
    rows = len(predictions.scores)
    padded = torch.nn.functional.pad(predictions.probabilities, (0, 0, 0, -rows % _LANES))
    return Predictions(predictions.probabilities, ScoreFormula(weights, version.tasks)(padded)[:rows])
