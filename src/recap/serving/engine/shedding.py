"""`Shedding`: fewer candidates per request while the server is slower than its target."""

import math
import time
from collections import deque
from collections.abc import Callable

import numpy as np

from recap.config.serving.server import SheddingConfig

_EVERY = 1.0
"""Seconds between changes of the share."""
_MIN_ANSWERS = 20
"""Answers for a change: fewer say little about the 95th percentile."""
_LONGEST = 10.0
"""Seconds after which fewer answers are enough, and none at all means that the server is not slow."""
_MAX_ANSWERS = 10_000
_LOWEST = 0.01
_RECOVERY = 1.25
"""Factor by which the share rises while latency is below `_COMFORT` of the target."""
_COMFORT = 0.8


class Shedding:
    """The share of candidates that are scored: lowered in proportion when p95 exceeds the target, raised in steps.

    Every second, or with fewer than 20 answers every 10 seconds, the 95th percentile of the latencies since the last
    time is compared with the target T: above T the share is multiplied by T / p95, below 0.8·T by 1.25, within
    [0.01, 1].
    """

    def __init__(self, config: SheddingConfig | None, clock: Callable[[], float] = time.monotonic) -> None:
        """Without `config`, all candidates are scored."""
        self._config, self._clock = config, clock
        self.share = 1.0
        self._latencies: deque[float] = deque(maxlen=_MAX_ANSWERS)
        self._changed = clock()

    def candidates(self, count: int) -> int:
        """How many of `count` candidates to score: the first ones."""
        if self._config is None:
            return count
        self._adapt()
        return min(count, max(self._config.min_candidates, math.ceil(count * self.share)))

    def answered(self, seconds: float) -> None:
        """A request was answered after this time."""
        if self._config is not None:
            self._latencies.append(seconds)

    def abandoned(self, seconds: float) -> None:
        """A request was given up after this time: its deadline passed, or its client left.

        It would have taken longer, so it counts if it took longer than the target already; below, it tells nothing.
        """
        if self._config is not None and seconds * 1000 > self._config.target_ms:
            self._latencies.append(seconds)

    def _adapt(self) -> None:
        now = self._clock()
        if now - self._changed < (_EVERY if len(self._latencies) >= _MIN_ANSWERS else _LONGEST):
            return
        assert self._config is not None
        target = self._config.target_ms / 1000
        p95 = float(np.quantile(self._latencies, 0.95)) if self._latencies else 0.0
        if p95 > target:
            self.share = max(self.share * target / p95, _LOWEST)
        elif p95 < _COMFORT * target:
            self.share = min(self.share * _RECOVERY, 1.0)
        self._latencies.clear()
        self._changed = now
