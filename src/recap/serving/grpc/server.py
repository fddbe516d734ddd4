"""The gRPC server of `recap serve`: service, limits, security, health."""

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2_grpc

from recap.config.serving.server import AddressConfig, ServerConfig
from recap.errors import InputError
from recap.serving.contract import Engine
from recap.serving.grpc.health import HealthService
from recap.serving.grpc.service import InferenceService
from recap.serving.security import Token, check_tls
from recap.serving.watch.watch import Watch

_MAX_METADATA_BYTES = 16 * 1024
_LAST_SECONDS = 0.5
"""For what is left when all calls have been answered."""
_MAX_CALLS = 1024
"""Open calls of a connection; others wait in the client."""
_KEEPALIVE_MS = 60_000
"""How often an idle connection is asked whether its client still lives."""
_KEEPALIVE_TIMEOUT_MS = 20_000
_MIN_PING_MS = 10_000
"""Clients that ping more often are cut off."""


class GrpcServer:
    """A server that is bound to its port, and not started."""

    def __init__(self, server: Any, service: InferenceService, health: HealthService, port: int) -> None:
        self._server, self._service, self._health = server, service, health
        self.port = port
        """Also where the configuration takes a free one."""

    async def start(self) -> None:
        """Answer calls from now on."""
        await self._server.start()

    async def stop(self, seconds: float) -> None:
        """Refuse new calls, finish open ones for at most `seconds`, and cancel the others."""
        self._health.stop()
        await self._service.refuse(_LAST_SECONDS)
        stopping = asyncio.create_task(self._server.stop(seconds))
        while not stopping.done():
            finished = asyncio.create_task(self._service.finished())
            await asyncio.wait((stopping, finished), return_when=asyncio.FIRST_COMPLETED)
            finished.cancel()
            with suppress(TimeoutError):  # streams of health end, and calls begin that were sent before
                await asyncio.wait_for(asyncio.shield(stopping), _LAST_SECONDS)
            if self._service.is_idle:
                break
        await self._server.stop(None)  # or gRPC waits for connections without calls, whose clients do not close them
        await stopping


def build_server(engine: Engine, config: ServerConfig, watch: Watch) -> GrpcServer:
    """The server of `config.address.grpc_port`. Call it on the event loop that runs it. Raises InputError."""
    token = Token.read(config.address.token_file) if config.address.token_file is not None else None
    limits = config.limits
    message = min(limits.body_mib, limits.decompressed_mib) * 2**20
    server = grpc.aio.server(
        options=[
            ("grpc.so_reuseport", 0),  # or two servers would share a port in silence
            ("grpc.max_receive_message_length", message),  # of gzip: before and after
            ("grpc.max_send_message_length", -1),
            ("grpc.max_metadata_size", _MAX_METADATA_BYTES),
            ("grpc.absolute_max_metadata_size", _MAX_METADATA_BYTES),
            ("grpc.max_allowed_incoming_connections", limits.connections),
            ("grpc.max_concurrent_streams", _MAX_CALLS),
            ("grpc.server_handshake_timeout_ms", round(limits.header_seconds * 1000)),
            ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
            ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", _MIN_PING_MS),
        ],
    )
    service = InferenceService(engine, config, watch)
    server.add_generic_rpc_handlers((service.handlers(token),))
    health = HealthService(engine)  # needs no token: probes have none
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    return GrpcServer(server, service, health, _bind(server, config.address))


def _bind(server: Any, address: AddressConfig) -> int:
    host = f"[{address.host}]" if ":" in address.host else address.host
    target = f"{host}:{address.grpc_port}"
    secure = address.certificate is not None and address.private_key is not None
    try:
        if secure:
            return int(server.add_secure_port(target, _credentials(address)))
        return int(server.add_insecure_port(target))
    except RuntimeError:
        raise InputError(
            f"address.grpc_port: cannot listen on {target}; another process may use the port. "
            "Choose another, or 0 for a free one"
        ) from None


def _credentials(address: AddressConfig) -> Any:
    check_tls(address)  # says why, where gRPC says only that it failed
    assert address.certificate is not None
    assert address.private_key is not None
    chain, key = Path(address.certificate).read_bytes(), Path(address.private_key).read_bytes()
    authority = None if address.client_ca is None else Path(address.client_ca).read_bytes()
    return grpc.ssl_server_credentials(((key, chain),), authority, require_client_auth=authority is not None)
