"""`Watch`: engine and protocols tell it what happens in a server; it shows that as metrics, traces and a log.

No method but `loaded` and `close` blocks or raises, and all may be called from any thread.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Literal, Self

import pyarrow as pa
from prometheus_client import generate_latest

from recap.config.serving.server import ServerConfig
from recap.inference.requests import RequestScorer
from recap.model.directory import read_statistics
from recap.reporting import Say, say_to_stderr
from recap.serving.contract import RankRequest, RankResponse, Reason
from recap.serving.watch.caches import Caches
from recap.serving.watch.drift import Drift
from recap.serving.watch.log_types import log_types
from recap.serving.watch.metrics import Metrics
from recap.serving.watch.request_log import RequestLog, is_logged, rows_of
from recap.serving.watch.traces import Traces
from recap.serving.watch.worker import Worker

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""The media type of `Watch.exposition`."""
SHADOW = "shadow"
"""Protocol of the requests that the server makes to itself."""
Stage = Literal["decode", "queue", "encode", "model", "respond"]
_CLOSE_SECONDS = 5.0
_QUIET_SECONDS = 60.0
"""Least time between two messages on failures of the log."""
_UNKNOWN = "unknown"
"""Label of models and versions that the server does not have: their names come from clients."""


class Watch:
    """What engine and protocols call.

    A protocol calls, for each request, `trace` around all of it, `stage("decode")`, `stage("respond")` and at the end
    `request`. The engine calls `loaded` and `unloaded`, `reload`, `queue`, `batch`, `shed`; `stage("queue")`,
    `stage("encode")`, `stage("model")` in the task of the request (for a shared batch: once per request), so that the
    stages join its trace; and `scores` and `log` for every response, shadow ones included.
    """

    def __init__(self, config: ServerConfig | None = None, say: Say = say_to_stderr) -> None:
        """Opens the log and the traces of `config`. Raises InputError if they cannot work."""
        self.config, self._say = config if config is not None else ServerConfig(), say
        self.metrics = Metrics()
        self.drift, self.caches = Drift(self.metrics.registry), Caches(self.metrics.registry)
        self._models = set(self.config.models)
        self._versions: dict[tuple[str, str], frozenset[str]] = {}
        """(model, version) → its regressions."""
        self._types: dict[tuple[str, str], Mapping[str, pa.DataType]] = {}
        """(model, version) → the types of its columns in the log."""
        self._traces = Traces(self.config.traces) if self.config.traces is not None else None
        log = self.config.request_log
        self._log = RequestLog(log, self._count_log) if log is not None else None
        self._worker = Worker(self._tick, self._failed)
        self._last_message = -_QUIET_SECONDS

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Finish the log and the traces; takes at most some seconds. Messages after it are ignored."""
        if not self._worker.close(self._close_log, _CLOSE_SECONDS):
            self._say("request log: the disk is too slow; the last rows are lost")
        if self._traces is not None:
            self._traces.close()

    # Models

    def loaded(self, model: str, version: str, folder: Path, scorer: RequestScorer) -> None:
        """A version answers requests from now on, or runs as a shadow. `folder`: its model directory.

        Raises CheckpointError for a damaged `statistics.json`; a model without one has no drift, which is said.
        """
        statistics = read_statistics(folder)
        self._models.add(model)
        self._versions[model, version] = frozenset(
            name for name, task in scorer.config.model.tasks.items() if task.objective.kind == "regression"
        )
        self._types[model, version] = log_types(scorer)
        self.metrics.loaded.labels(model, version).set(1)
        self.caches.loaded(model, version, scorer.cache)
        if statistics is None:
            self._say(
                f"model {model}, version {version}: has no statistics.json, as it was trained by an earlier recap; no "
                "drift is shown"
            )
        else:
            encoder = scorer.predictor.encoder
            self.drift.loaded(model, version, encoder, statistics, list(scorer.config.tasks))

    def unloaded(self, model: str, version: str) -> None:
        """A version no longer answers requests."""
        if self._versions.pop((model, version), None) is not None:
            del self._types[model, version]
            self.metrics.forget(model, version)
            self.drift.unloaded(model, version)
            self.caches.unloaded(model, version)

    def reload(self, model: str, result: Literal["served", "refused"]) -> None:
        """A new version was found, and serves now or was refused."""
        self.metrics.reloads.labels(model, result).inc()

    # Requests

    def trace(self, protocol: str, headers: Mapping[str, str]) -> AbstractContextManager[None]:
        """The span of a request. `headers`: those of HTTP or gRPC, in lower case; `traceparent` names the parent."""
        return nullcontext() if self._traces is None else self._traces.request(protocol, headers)

    def request(
        self, protocol: str, model: str | None, version: str | None, reason: Reason | None, seconds: float
    ) -> None:
        """A request was answered after `seconds`, or failed for `reason`. `model`, `version`: as in the response, or
        as the client named them."""
        name = model if model in self._models else _UNKNOWN
        known = version if (model, version) in self._versions else _UNKNOWN
        outcome = "ok" if reason is None else "failed"
        self.metrics.requests.labels(name, known, protocol, outcome).inc()
        if reason is not None:
            self.metrics.failures.labels(name, protocol, reason.label).inc()
        if reason is None and protocol != SHADOW:
            self.metrics.latency.labels("total").observe(seconds)

    def stage(self, name: Stage, seconds: float, ended: float | None = None) -> None:
        """A stage of the request of this task took `seconds` until `ended` of `time.monotonic()`, by default now."""
        self.metrics.latency.labels(name).observe(seconds)
        if self._traces is not None:
            self._traces.stage(name, seconds, ended)

    def batch(self, requests: int, candidates: int) -> None:
        """A forward pass with so much in it."""
        self.metrics.batch_requests.observe(requests)
        self.metrics.batch_candidates.observe(candidates)

    def queue(self, length: Callable[[], int]) -> None:
        """`length` is the number of requests that wait, and is called when metrics are asked for."""
        self.metrics.queue.set_function(length)

    def shed(self, model: str, candidates: int) -> None:
        """A request was answered without `candidates` of its candidates."""
        self.metrics.shed_requests.labels(model).inc()
        self.metrics.shed_candidates.labels(model).inc(candidates)

    def scores(self, model: str, version: str, response: RankResponse) -> None:
        """What a version predicted for a request, whether it is returned or not."""
        regressions = self._versions.get((model, version))
        if regressions is None:  # unloaded since
            return
        of_kind = self.metrics.probability, self.metrics.value
        for metric, is_regression in zip(of_kind, (False, True), strict=True):
            chosen = [index for index, task in enumerate(response.tasks) if (task in regressions) == is_regression]
            if chosen:
                series = [(response.tasks[index], model, version) for index in chosen]
                every = len(chosen) == len(response.tasks)
                metric.observe(series, response.probabilities if every else response.probabilities[:, chosen])
        self.metrics.score.observe([(model, version)], response.scores[:, None])
        self.metrics.non_finite.labels(model, version).inc(len(response.failed))

    def log(self, request: RankRequest, response: RankResponse, *, returned: bool = True) -> None:
        """Log a request and what a version answered, and count it for drift, if it is sampled for that.

        `returned`: False for a shadow. A thread does the work later; what it has no time for is dropped and counted.
        """
        if self.drift.wants(response.model, response.version):
            self._worker.submit(partial(self.drift.sample, request, response), _bytes_of(request, response))
        if self._log is None or self.config.request_log is None:
            return
        if is_logged(request.key, self.config.request_log.share):
            types = self._types.get((response.model, response.version))
            write = partial(self._write, self._log, request, response, datetime.now(UTC), returned, types)
            if not self._worker.submit(write, _bytes_of(request, response)):
                self._count_log("dropped", len(response.scores))

    def _write(
        self,
        log: RequestLog,
        request: RankRequest,
        response: RankResponse,
        time: datetime,
        returned: bool,
        types: Mapping[str, pa.DataType] | None,
    ) -> None:
        leave_out = self.config.request_log.leave_out if self.config.request_log is not None else ()
        try:
            rows = rows_of(request, response, time, returned=returned, leave_out=leave_out, types=types)
        except Exception:
            self._count_log("failed", len(response.scores))
            raise
        log.write(rows, response.model)

    def _count_log(self, result: str, rows: int) -> None:
        self.metrics.log_rows.labels(result).inc(rows)

    def _close_log(self) -> None:
        if self._log is not None:
            self._log.close()

    def _tick(self) -> None:
        if self._log is not None:
            self._log.tick()

    def _failed(self, error: Exception) -> None:
        """Of a job of the worker: requests go on, and a message is shown about once a minute."""
        if monotonic() - self._last_message >= _QUIET_SECONDS:
            self._last_message = monotonic()
            with suppress(Exception):
                self._say(f"request log or drift: {type(error).__name__}: {error}; requests are served on")

    def exposition(self) -> bytes:
        """The body of `/metrics`, of type `CONTENT_TYPE`."""
        return generate_latest(self.metrics.registry)


def _bytes_of(request: RankRequest, response: RankResponse) -> int:
    return int(request.user.nbytes + request.candidates.nbytes + response.probabilities.nbytes)
