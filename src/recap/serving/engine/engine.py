"""`RankingEngine`: the models of a server, behind a queue; every protocol calls its `rank`."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from recap.config.serving.server import ServerConfig
from recap.data.encoding.columns import source_column
from recap.errors import DataError
from recap.inference.predictor import Predictions
from recap.inference.requests import EncodedRequest
from recap.reporting import Say, say_to_stderr
from recap.runtime import available_cpus
from recap.serving.contract import RankRequest, RankResponse, Reason, RequestError, Signature
from recap.serving.engine.batches import ENDING, Batches, Waiting, one_thread
from recap.serving.engine.shadow import Shadow, response_of
from recap.serving.engine.shedding import Shedding
from recap.serving.models.served import ServedModel
from recap.serving.models.version import Version
from recap.serving.watch.watch import Watch
from recap.text import shorten, suggest

_RETRY_AFTER = 1
"""Seconds after which a client may try again when the queue is full."""


class RankingEngine:
    """Decodes, batches and scores requests; see `contract.Engine`."""

    def __init__(
        self, config: ServerConfig, models: Mapping[str, ServedModel], watch: Watch, say: Say = say_to_stderr
    ) -> None:
        """`models` are loaded. Must be made on the event loop."""
        self._config, self._models, self._watch, self._say = config, dict(models), watch, say
        threads = config.batching.threads or available_cpus()
        self._encoders = ThreadPoolExecutor(threads, "encode", initializer=one_thread)
        self._batches = Batches(config.batching, threads, watch)
        watch.queue(lambda: self._batches.waiting)
        self._shedding = Shedding(config.shedding)
        self._shadow = Shadow(watch, say)
        self._draining = self._closed = False

    def models(self) -> Sequence[str]:
        """The names of the models."""
        return list(self._models)

    def ready(self, model: str | None = None, version: str | None = None) -> bool:
        """Whether the server, or one model or version, answers. Raises RequestError for an unknown model."""
        if model is not None:
            served = self._served(model)
            if version is not None and all(version != loaded.name for loaded in served.versions):
                return False
        return not self._draining

    def signature(self, model: str, version: str | None = None) -> Signature:
        """Raises RequestError if the model or the version is unknown."""
        served = self._served(model)
        chosen = served.version(version)
        features = chosen.scorer.config.features
        return Signature(
            model,
            [loaded.name for loaded in served.versions],
            chosen.columns,
            chosen.tasks,
            chosen.regressions,
            chosen.user,
            list(dict.fromkeys(map(source_column, features.carried))),
            chosen.scorer.config.scoring.weights,
            served.config.weights_from_requests,
        )

    async def rank(self, request: RankRequest) -> RankResponse:
        """Raises RequestError. Cancelling it drops the request if it still waits."""
        started = time.monotonic()
        if self._closed:
            raise RequestError(Reason.NOT_READY, ENDING)
        served = self._served(request.model)
        if request.candidates.num_rows == 0:
            raise RequestError(Reason.INVALID, "no candidates; a request has at least one")
        version = served.version(request.version, _user(request, served.current.user))
        weights = _checked_weights(request.weights, served, version)
        latest = started + self._config.limits.deadline_ms / 1000
        deadline = latest if request.deadline is None else min(request.deadline, latest)
        if deadline <= started:
            raise RequestError(Reason.DEADLINE, _LATE)
        if self._batches.waiting >= self._config.batching.max_queue:
            text = f"{self._batches.waiting} requests wait already; try again later, or ask another server"
            raise RequestError(Reason.OVERLOADED, text, _RETRY_AFTER)
        count = self._shedding.candidates(request.candidates.num_rows)
        scored = request if count == request.candidates.num_rows else _first(request, count)
        try:
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + deadline - started):
                predictions = await self._score(scored, version, weights)
        except TimeoutError:
            self._shedding.abandoned(time.monotonic() - started)
            raise RequestError(Reason.DEADLINE, _LATE) from None
        except asyncio.CancelledError:
            self._shedding.abandoned(time.monotonic() - started)
            raise
        except RequestError:
            raise
        except Exception as error:
            self._say(f"model {version.model}, version {version.name}: {type(error).__name__}: {error}")
            raise RequestError(Reason.INTERNAL, "the model failed to score the request") from error
        response = response_of(request, version, predictions, served.config.fallback)
        self._shedding.answered(time.monotonic() - started)
        self._tell(request, scored, served, response)
        return response

    def drain(self) -> None:
        """The server is about to end: it stops being ready, and goes on to answer."""
        self._draining = True

    def close(self) -> None:
        """Drop what waits. Threads end by themselves."""
        self._draining = self._closed = True
        self._shadow.close()
        self._batches.close()
        self._encoders.shutdown(wait=False, cancel_futures=True)

    def _served(self, model: str) -> ServedModel:
        if model not in self._models:
            text = f"unknown model {shorten(repr(model))}. {suggest(model, list(self._models))}"
            raise RequestError(Reason.NOT_FOUND, text)
        return self._models[model]

    async def _score(self, request: RankRequest, version: Version, weights: Mapping[str, float] | None) -> Predictions:
        """Encode a request and let the model score it with others."""
        loop, started = asyncio.get_running_loop(), time.monotonic()
        self._batches.arriving(version)
        try:
            encoded: EncodedRequest = await loop.run_in_executor(
                self._encoders, version.scorer.encode, request.user, request.candidates
            )
        except BaseException as error:
            self._batches.gone(version)
            if isinstance(error, DataError):
                raise RequestError(Reason.INVALID, str(error)) from None
            raise
        self._watch.stage("encode", time.monotonic() - started)
        waiting = Waiting(version, encoded, loop.create_future(), weights)
        try:
            predictions = await self._batches.submit(waiting)
        except DataError as error:
            raise RequestError(Reason.INVALID, str(error)) from None
        finally:
            waiting.future.cancel()
        self._watch.stage("queue", waiting.started - waiting.since, waiting.started)
        self._watch.stage("model", time.monotonic() - waiting.started)
        return predictions

    def _tell(self, request: RankRequest, scored: RankRequest, served: ServedModel, response: RankResponse) -> None:
        """Count what was answered, log it, and let the shadow score the same candidates."""
        if scored is not request:
            self._watch.shed(request.model, response.candidates - len(response.scores))
        self._watch.scores(request.model, response.version, response)
        self._watch.log(request, response)
        if served.shadow is not None and served.shadow.name != response.version:
            self._shadow.score(scored, served.shadow)


_LATE = "the deadline passed before the model could score the request"


def _user(request: RankRequest, column: str | None) -> Any:
    """The user of a request; None if it does not tell."""
    for table in (request.user, request.candidates):
        if column is not None and column in table.column_names:
            return table[column][0].as_py()
    return None


def _first(request: RankRequest, count: int) -> RankRequest:
    return replace(request, candidates=request.candidates.slice(0, count))


def _checked_weights(
    weights: Mapping[str, float] | None, served: ServedModel, version: Version
) -> Mapping[str, float] | None:
    """Raises RequestError for weights that are not allowed, of unknown tasks, or not finite."""
    if weights is None:
        return None
    if not served.config.weights_from_requests:
        text = f"weights: model {served.name} takes none from requests (models.{served.name}.weights_from_requests)"
        raise RequestError(Reason.INVALID, text)
    for task, weight in weights.items():
        if task not in version.tasks:
            text = f"weights: unknown task {shorten(repr(task))}. {suggest(task, list(version.tasks))}"
            raise RequestError(Reason.INVALID, text)
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not abs(weight) < _MAX_WEIGHT:
            text = f"weights.{task}: expected a number below {_MAX_WEIGHT:g}, found {shorten(repr(weight))}"
            raise RequestError(Reason.INVALID, text)
    return dict(weights)


_MAX_WEIGHT = 1e100
"""So that sums of weighted predictions stay finite."""
