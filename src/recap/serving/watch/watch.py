"""`Watch`: told by engine and protocols what happens in a server; shows it as metrics, traces and a log.

No method blocks or raises, and all may be called from any thread.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Self

import numpy as np
from prometheus_client import generate_latest

from recap.config.serving.server import ServerConfig
from recap.inference.requests import RequestScorer
from recap.serving.contract import RankRequest, RankResponse, Reason
from recap.serving.watch.metrics import Metrics

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""The media type of `Watch.exposition`."""
Stage = Literal["decode", "queue", "encode", "model", "respond"]
_UNKNOWN = "unknown"
"""Label of models and versions that the server does not have: their names come from clients."""


class Watch:
    """What engine and protocols call.

    A protocol calls, for each request, `trace` around all of it, `stage("decode")`, `stage("respond")` and at the end
    `request`. The engine calls `loaded` and `unloaded`, `reload`, `queue`, `batch`, `shed`; `stage("queue")`,
    `stage("encode")`, `stage("model")` in the task of the request (for a shared batch: once per request), so that the
    stages join its trace; and `scores` and `log` for every response, shadow ones included.
    """

    def __init__(self, config: ServerConfig | None = None) -> None:
        """Opens the log and the traces of `config`. Raises ConfigError or InputError if they cannot work."""
        self.config = config if config is not None else ServerConfig()
        self.metrics = Metrics()
        self._models = set(self.config.models)
        self._versions: dict[tuple[str, str], frozenset[str]] = {}
        """(model, version) → its regressions."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Finish the log and the traces; blocks for at most some seconds."""

    # Models

    def loaded(self, model: str, version: str, folder: Path, scorer: RequestScorer) -> None:
        """A version answers requests from now on, or runs as a shadow. `folder`: its model directory."""
        self._models.add(model)
        self._versions[model, version] = frozenset(
            name for name, task in scorer.config.model.tasks.items() if task.objective.kind == "regression"
        )
        self.metrics.loaded.labels(model, version).set(1)

    def unloaded(self, model: str, version: str) -> None:
        """A version no longer answers requests."""
        if self._versions.pop((model, version), None) is not None:
            self.metrics.forget(model, version)

    def reload(self, model: str, result: Literal["served", "refused"]) -> None:
        """A new version was found, and serves now or was refused."""
        self.metrics.reloads.labels(model, result).inc()

    # Requests

    @contextmanager
    def trace(self, protocol: str, headers: Mapping[str, str]) -> Iterator[None]:
        """The span of a request. `headers`: those of HTTP or gRPC, in lower case; `traceparent` names the parent."""
        yield

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
        self.metrics.latency.labels("total").observe(seconds)

    def stage(self, name: Stage, seconds: float) -> None:
        """A stage of the request of this task ended now and took `seconds`."""
        self.metrics.latency.labels(name).observe(seconds)

    def batch(self, requests: int, candidates: int) -> None:
        """A forward pass with so much in it."""
        self.metrics.batch_requests.observe(requests)
        self.metrics.batch_candidates.observe(candidates)

    def queue(self, length: int) -> None:
        """The requests that wait now."""
        self.metrics.queue.set(length)

    def shed(self, model: str, candidates: int) -> None:
        """A request was answered without `candidates` of its candidates."""
        self.metrics.shed_requests.labels(model).inc()
        self.metrics.shed_candidates.labels(model).inc(candidates)

    def scores(self, model: str, version: str, response: RankResponse) -> None:
        """What a version predicted for a request, whether it is returned or not."""
        regressions = self._versions.get((model, version))
        if regressions is None:  # unloaded since
            return
        for task, column in zip(response.tasks, response.probabilities.T, strict=True):
            metric = self.metrics.value if task in regressions else self.metrics.probability
            metric.observe((task, model, version), column)
        self.metrics.score.observe((model, version), response.scores)
        wrong = ~np.isfinite(response.probabilities).all(axis=1)
        self.metrics.non_finite.labels(model, version).inc(int(wrong.sum()))

    def log(self, request: RankRequest, response: RankResponse, *, returned: bool = True) -> None:
        """Log a request and what a version answered, if its turn comes; `returned`: False for a shadow."""

    def exposition(self) -> bytes:
        """The body of `/metrics`, of type `CONTENT_TYPE`."""
        return generate_latest(self.metrics.registry)
