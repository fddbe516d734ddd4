"""The standard service grpc.health.v1, for probes and load balancers: always what `Engine.ready` says."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from recap.serving.contract import Engine, RequestError
from recap.serving.grpc.messages import SERVICE

HEALTH_SERVICE = "grpc.health.v1.Health"
_EVERY_SECONDS = 0.25
"""How often a stream of Watch looks for a change."""
_Status = health_pb2.HealthCheckResponse


class HealthService(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """Services: "" and that of the Open Inference Protocol are the whole server; any other is the name of a model."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Say NOT_SERVING, and end the streams of Watch, which would hold the server open."""
        self._stopping.set()

    def _status(self, service: str) -> Any:
        try:
            ready = self._engine.ready(None if service in ("", SERVICE, HEALTH_SERVICE) else service)
        except RequestError:
            return _Status.SERVICE_UNKNOWN
        return _Status.SERVING if ready and not self._stopping.is_set() else _Status.NOT_SERVING

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802
        """The state now; NOT_FOUND for an unknown service."""
        status = self._status(request.service)
        if status == _Status.SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service; give none, or the name of a model")
        return _Status(status=status)

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        """The state now, and again after every change."""
        before = None
        while True:
            last, status = self._stopping.is_set(), self._status(request.service)
            if status != before:
                yield _Status(status=status)
                before = status
            if last:
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), _EVERY_SECONDS)
