"""`Listener`: granian's embedded HTTP server, on a socket that is bound before the models are loaded."""

import socket
import ssl
from pathlib import Path
from typing import Any

from granian._granian import SocketHolder
from granian.constants import HTTPModes, Interfaces, SSLProtocols
from granian.http import HTTP1Settings
from granian.server.embed import Server

from recap.config.serving.server import AddressConfig, LimitsConfig, ServerConfig
from recap.errors import InputError

_BACKLOG = 1024
"""Connections that wait to be accepted."""


def bind(address: AddressConfig, limits: LimitsConfig) -> socket.socket:
    """A socket that is bound to the address of REST, and does not listen yet. Raises InputError, also if in use."""
    field = f"address.http_port: {address.host}:{address.http_port}"
    try:
        family, kind, protocol, _, resolved = socket.getaddrinfo(
            address.host, address.http_port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise InputError(f"address.host: {address.host}: {error.strerror}; give an address of this machine") from None
    try:
        # Not SO_REUSEPORT, with which two servers would share a port in silence.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # A client that does not read its answers would hold its connection for ever; connections inherit this.
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
            bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, round(limits.body_seconds * 1000)))
        bound.bind(resolved)
    except OSError as error:
        bound.close()
        raise InputError(f"{field}: cannot listen ({error.strerror}); choose another, or 0 for a free port") from None
    bound.setblocking(False)
    return bound


class Listener(Server):
    """Serves an ASGI application in the event loop of the caller; `serve` runs until `stop`, then ends open requests.

    Only HTTP/1.1, whose head has a time limit. At most `limits.connections` are open; others wait in the backlog.
    """

    def __init__(self, app: Any, bound: socket.socket, config: ServerConfig) -> None:
        """`bound`: see `bind`. Raises InputError for a certificate or key that cannot be used."""
        address, limits = config.address, config.limits
        try:
            super().__init__(
                app,
                address=address.host,
                port=bound.getsockname()[1],
                interface=Interfaces.ASGINL,
                http=HTTPModes.http1,
                websockets=False,
                backlog=_BACKLOG,
                backpressure=limits.connections,
                http1_settings=HTTP1Settings(header_read_timeout=max(1, round(limits.header_seconds * 1000))),
                log_enabled=False,
                ssl_cert=_path(address.certificate),
                ssl_key=_path(address.private_key),
                ssl_protocol_min=SSLProtocols.tls12,
                ssl_ca=_path(address.client_ca),
                ssl_client_verify=address.client_ca is not None,
            )
        except (OSError, ssl.SSLError) as error:
            raise InputError(
                f"address.certificate: {address.certificate} with {address.private_key} cannot be used "
                f"({error.strerror or error}); give a chain and its key, both in PEM"
            ) from None
        self._bound = bound

    def _init_shared_socket(self) -> None:
        """Granian would open a socket of its own; it closes the one that it gets."""
        self._bound.listen(_BACKLOG)
        self._ssp = None
        self._shd: Any = SocketHolder(self._bound.detach(), False, _BACKLOG)  # type: ignore[call-arg]


def _path(name: str | None) -> Path | None:
    return None if name is None else Path(name)
