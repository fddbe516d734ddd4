"""`Shadow`: a second version scores what the first has answered; it is counted and logged, and never returned."""

import asyncio
import math
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np

from recap.errors import DataError
from recap.inference.predictor import Predictions
from recap.reporting import Say
from recap.serving.contract import RankRequest, RankResponse, Reason
from recap.serving.engine.batches import one_thread, weighted
from recap.serving.models.version import Version
from recap.serving.watch.watch import SHADOW, Watch

_MAX_WAITING = 16
"""Requests that wait for the shadow; further ones are left out, so that it never holds up the answers."""
_QUIET_SECONDS = 60.0
"""Least time between two messages on failures."""
_LOWEST_PRIORITY = 19


def background_pool(name: str) -> ThreadPoolExecutor:
    """A pool of one thread that computes only when no other thread wants the CPU."""
    return ThreadPoolExecutor(1, name, initializer=_yield_to_others)


class Shadow:
    """Scores in a thread of the lowest priority. Methods run on the event loop."""

    def __init__(self, watch: Watch, say: Say) -> None:
        self._watch, self._say = watch, say
        self._last_message = -_QUIET_SECONDS
        self._pool = background_pool("shadow")
        self._waiting = 0

    def score(self, request: RankRequest, version: Version) -> None:
        """Score a request that was answered, some time; left out, and counted as overloaded, if too many wait."""
        if self._waiting >= _MAX_WAITING:
            self._watch.request(SHADOW, version.model, version.name, Reason.OVERLOADED, 0.0)
            return
        self._waiting += 1
        pending = asyncio.get_running_loop().run_in_executor(self._pool, self._score, request, version)
        started = time.monotonic()
        pending.add_done_callback(lambda done: self._finished(done, version, started))

    def close(self) -> None:
        """Leave out what waits."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _finished(self, done: "asyncio.Future[None]", version: Version, started: float) -> None:
        self._waiting -= 1
        if done.cancelled():
            return
        error, now = done.exception(), time.monotonic()
        reason = None if error is None else Reason.INVALID if isinstance(error, DataError) else Reason.INTERNAL
        self._watch.request(SHADOW, version.model, version.name, reason, now - started)
        if error is not None and now - self._last_message >= _QUIET_SECONDS:
            self._last_message = now
            self._say(
                f"model {version.model}: the shadow {version.name} failed to score a request "
                f"({type(error).__name__}: {error})"
            )

    def _score(self, request: RankRequest, version: Version) -> None:
        (predictions,) = version.scorer.score([version.scorer.encode(request.user, request.candidates)])
        response = response_of(request, version, weighted(version, request.weights, predictions), None)
        self._watch.scores(request.model, version.name, response)
        self._watch.log(request, response, returned=False)


def _yield_to_others() -> None:
    one_thread()
    with suppress(OSError):  # systems where priorities are those of processes
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST_PRIORITY)


def response_of(
    request: RankRequest, version: Version, predictions: Predictions, fallback: float | None
) -> RankResponse:
    """The response, without values that are not finite, except NaN in the rows of `failed`."""
    probabilities, scores = predictions.probabilities.numpy(), predictions.scores.numpy()
    bad = ~(np.isfinite(probabilities).all(axis=1) & np.isfinite(scores))
    failed = np.flatnonzero(bad)
    if failed.size:
        probabilities, scores = probabilities.copy(), scores.copy()
        probabilities[failed] = np.nan
        scores[failed] = math.nan if fallback is None else fallback
    count = request.candidates.num_rows
    return RankResponse(
        request.model, version.name, version.tasks, probabilities, scores, count, failed.astype(np.int64), request.id
    )
