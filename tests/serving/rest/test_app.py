"""What REST does when the engine fails or is busy, or the client leaves: an engine that a test chooses."""

import asyncio
import gzip
import json
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from recap.config.serving.server import ServerConfig
from recap.serving.contract import RankRequest, RankResponse, Reason, RequestError, Signature
from recap.serving.rest.app import build_app
from recap.serving.watch.watch import Watch


class Engine:
    """Models without columns; `answer` is their `rank`."""

    def __init__(
        self,
        answer: Callable[[RankRequest], Awaitable[RankResponse]],
        *,
        is_ready: bool = True,
        models: Sequence[str] = ("feed",),
    ) -> None:
        self.answer, self.is_ready, self.names = answer, is_ready, models

    def models(self) -> Sequence[str]:
        return self.names

    def ready(self, model: str | None = None, version: str | None = None) -> bool:
        return self.is_ready

    def signature(self, model: str, version: str | None = None) -> Signature:
        return Signature(model, ["1"], {}, ["like"], [], None)

    async def rank(self, request: RankRequest) -> RankResponse:
        return await self.answer(request)


async def fail(request: RankRequest) -> RankResponse:
    raise ZeroDivisionError("a secret of the server")


async def overloaded(request: RankRequest) -> RankResponse:
    raise RequestError(Reason.OVERLOADED, "256 requests wait already", retry_after=3)


async def score(request: RankRequest) -> RankResponse:
    rows = request.candidates.num_rows
    return RankResponse(
        request.model, "1", ["like"], np.ones((rows, 1), np.float32), np.ones(rows), rows, id=request.id
    )


@pytest.mark.parametrize("encoding", [None, "gzip"])
def test_a_large_body_is_decoded_beside_other_requests(encoding: str | None) -> None:
    client = TestClient(build_app(Engine(score), ServerConfig(), Watch()))
    text = random.Random(0).randbytes(600_000).hex()
    body = json.dumps({"id": text, "candidates": [{}]}).encode()
    headers = {"Content-Type": "application/json", "Content-Encoding": encoding or "identity"}
    response = client.post("/v1/rank", content=gzip.compress(body) if encoding else body, headers=headers)
    assert response.headers["content-encoding"] == "gzip"  # which the client accepts
    assert response.json()["id"] == text


def test_a_request_names_its_model_if_there_are_several() -> None:
    client = TestClient(build_app(Engine(score, models=["feed", "ads"]), ServerConfig(), Watch()))
    refused = client.post("/v1/rank", json={"candidates": [{}]})
    assert refused.json() == {"error": "model: is missing, and the server has several: feed, ads"}
    assert client.post("/v1/rank", json={"candidates": [{}], "model": "ads"}).json()["model"] == "ads"
    assert client.post("/v1/models/ads/rank", json={"candidates": [{}]}).json()["model"] == "ads"
    refused = client.post("/v1/models/ads/rank", json={"candidates": [{}], "model": "feed"})
    assert refused.json() == {"error": "model: another than that of the path; leave it out"}


def test_a_failure_of_the_server_is_logged_with_the_id_of_the_request_and_not_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watch = Watch()
    client = TestClient(build_app(Engine(fail), ServerConfig(), watch))
    response = client.post("/v1/rank", json={"candidates": [{}]}, headers={"X-Request-Id": "abc"})
    assert response.status_code == 500
    assert response.json() == {"error": "the server failed; its log says why (request abc)"}
    assert "request abc failed" in caplog.text
    assert "a secret of the server" in caplog.text
    assert b'reason="internal"} 1.0' in watch.exposition()


def test_clients_are_told_when_to_try_again() -> None:
    client = TestClient(build_app(Engine(overloaded, is_ready=False), ServerConfig(), Watch()))
    response = client.post("/v1/rank", json={"candidates": [{}]})
    assert (response.status_code, response.headers["retry-after"]) == (503, "3")
    assert response.json() == {"error": "256 requests wait already"}
    response = client.get("/v2/health/ready")
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert response.json() == {"error": "not ready"}


def test_ranking_stops_when_the_client_leaves() -> None:
    cancelled = asyncio.Event()
    started = asyncio.Event()

    async def wait(request: RankRequest) -> RankResponse:
        started.set()
        try:
            return await asyncio.Future()
        finally:
            cancelled.set()

    async def run() -> list[Any]:
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            if not sent and not started.is_set():
                return {"type": "http.request", "body": json.dumps({"candidates": [{}]}).encode()}
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/rank",
            "query_string": b"",
            "headers": [(b"content-type", b"application/json")],
        }
        app = build_app(Engine(wait), ServerConfig(), watch)
        await asyncio.wait_for(app(scope, receive, send), 10)
        await asyncio.wait_for(cancelled.wait(), 10)
        return sent

    watch = Watch()
    assert asyncio.run(run())[0]["status"] == 499
    assert b'reason="cancelled"} 1.0' in watch.exposition()
