"""Who may read from data servers: `Access` of a server, `Identity` of a client, and why a server is not reached.

A token travels in the header `authorization: Bearer TOKEN`. Files are read again when they change, so that a token or a
certificate can be replaced while runs go on.
"""

import hmac
import os
import socket
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pyarrow.flight as flight

from recap.config.data import ServiceConfig
from recap.config.file.credentials import read_authority, read_chain, read_token
from recap.config.serving.server import is_loopback
from recap.errors import InputError
from recap.reporting import Say

_HEADER = "authorization"
_CONNECT_SECONDS = 5.0


@dataclass(frozen=True)
class Access:
    """Where a server listens, and who may ask; the fields are the options of `recap data serve`."""

    host: str = "127.0.0.1"
    port: int = 0
    """0: any free port."""
    token_file: str | None = None
    certificate: str | None = None
    private_key: str | None = None
    client_ca: str | None = None
    insecure: bool = False

    def check(self) -> None:
        """Raise InputError for options that contradict each other, or leave rows open to other machines."""
        if not (is_loopback(self.host) or self.token_file or self.client_ca or self.insecure):
            raise InputError(
                f"--host: {self.host} can be reached from other machines; restrict access with --token-file or "
                "--client-ca, or give --insecure where something else protects the server"
            )
        if (self.certificate is None) != (self.private_key is None):
            one, other = ("private-key", "certificate") if self.certificate is None else ("certificate", "private-key")
            raise InputError(f"--{one}: TLS needs both; give --{other} too")
        if self.client_ca is not None and self.certificate is None:
            raise InputError("--client-ca: certificates of clients need TLS; give --certificate and --private-key")

    def settings(self, say: Say) -> tuple[str, dict[str, Any]]:
        """The location, and the arguments of a Flight server. Raises InputError for files that cannot be used."""
        self.check()
        settings: dict[str, Any] = {}
        if self.token_file is not None:
            settings["middleware"] = {"token": _TokenCheck(self.token_file, say)}
        if self.certificate is not None:
            chain = read_chain(self.certificate, self.private_key, ("--certificate", "--private-key"))
            settings["tls_certificates"] = [chain]
        if self.client_ca is not None:
            settings |= {"verify_client": True, "root_certificates": read_authority(self.client_ca, "--client-ca")}
        return f"{_scheme(tls=self.certificate is not None)}://{_bracketed(self.host)}:{self.port}", settings

    def describe(self) -> str:
        """Who may read, and whether others on the network can read along."""
        who = {(True, True): "clients with the token and a certificate", (True, False): "clients with the token"}
        who |= {(False, True): "clients with a certificate", (False, False): "anyone who can connect"}
        text = f"{who[self.token_file is not None, self.client_ca is not None]} can read these rows"
        if self.certificate is not None:
            return f"{text}; connections are encrypted"
        along = self.token_file is not None and not is_loopback(self.host)
        return f"{text}; connections are not encrypted" + (": others can read the token along the way" * along)


class _TokenCheck(flight.ServerMiddlewareFactory):  # type: ignore[misc]
    """Refuses calls without the token in a file."""

    def __init__(self, path: str, say: Say) -> None:
        super().__init__()
        self._path, self._say = path, say
        self._stamp, self._expected = _stamp(path), _bearer(read_token(path, "--token-file"))

    def start_call(self, info: flight.CallInfo, headers: Mapping[str, list[Any]]) -> None:
        """Raise FlightUnauthenticatedError unless the header names the token; compared in constant time."""
        self._read_again()
        given = headers.get(_HEADER, [])
        if not given:
            raise flight.FlightUnauthenticatedError("this server needs a token")
        value = given[0] if isinstance(given[0], bytes) else str(given[0]).encode("utf-8", "replace")
        if len(given) > 1 or not hmac.compare_digest(value, self._expected):
            raise flight.FlightUnauthenticatedError("this server has another token")

    def _read_again(self) -> None:
        """Take the token of a file that has changed; keep the last one while it cannot be used."""
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._expected = _bearer(read_token(self._path, "--token-file"))
        except InputError as error:
            self._say(f"{error}; the token before stays valid")


class Identity:
    """What a client shows to servers, and how it knows them."""

    def __init__(self, config: ServiceConfig) -> None:
        """Raises InputError for files that cannot be used."""
        self._config = config
        self.headers: list[tuple[bytes, bytes]] = []
        """For every call."""
        self.tls: dict[str, Any] = {}
        """Arguments of a Flight client."""
        if config.token_file is not None:
            token = read_token(config.token_file, "readers.token_file")
            self.headers = [(_HEADER.encode(), _bearer(token))]
        if config.server_ca is not None:
            self.tls["tls_root_certs"] = read_authority(config.server_ca, "readers.server_ca")
        if config.certificate is not None:
            names = ("readers.certificate", "readers.private_key")
            chain, key = read_chain(config.certificate, config.private_key, names)
            self.tls |= {"cert_chain": chain, "private_key": key}

    def location(self, address: str) -> str:
        """The Flight location of a server."""
        return f"{_scheme(tls=bool(self.tls))}://{address}"

    def warning(self) -> str | None:
        """What to say if others can read the token along the way."""
        hosts = [address.rpartition(":")[0] for address in self._config.address]
        if not self.headers or self.tls or all(map(is_loopback, hosts)):
            return None
        return "readers: the token travels unencrypted; set readers.server_ca, with servers that have a --certificate"

    def refused(self, address: str) -> InputError:
        """The error of a server that refuses the token of this client."""
        if self._config.token_file is None:
            return InputError(f"readers: {address} needs a token; set readers.token_file to the file with its token")
        return InputError(
            f"readers: {address} has another token than {self._config.token_file} (readers.token_file); give both ends "
            "the same file"
        )

    def tls_problem(self, address: str) -> str | None:
        """Why TLS between this client and a server cannot work; None if it works, or nobody answers.

        A second handshake, since gRPC tells little of why one failed.
        """
        host, _, port = address.rpartition(":")
        host, answer = host.strip("[]"), b""
        try:
            family, kind, _, _, endpoint = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0]
            # Wrapped before it connects, since `wrap_socket` does not close a connection that was just reset.
            with self._context().wrap_socket(socket.socket(family, kind), server_hostname=host) as encrypted:
                encrypted.settimeout(_CONNECT_SECONDS)
                encrypted.connect(endpoint)
                with suppress(ssl.SSLError, ConnectionError):
                    answer = encrypted.recv(1)  # of HTTP/2, whose server starts; empty if it refuses this client
        except ssl.SSLCertVerificationError as error:
            return f"its certificate is not trusted ({error.verify_message}); check readers.server_ca and the host name"
        except ssl.SSLError:
            return (
                "it does not speak TLS; remove readers.server_ca, or start it with --certificate" * bool(self.tls)
                or None
            )
        except OSError:
            return None
        if not self.tls:
            return "it speaks TLS; set readers.server_ca to the authority of its certificate"
        if answer:
            return None
        if self._config.certificate is None:
            return "it needs a certificate of this run; set readers.certificate and readers.private_key"
        return (
            f"it does not trust {self._config.certificate} (readers.certificate); one of its --client-ca must sign it"
        )

    def _context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self._config.server_ca)
        context.set_alpn_protocols(["h2"])
        if not self.tls:  # this client does not speak TLS, and only asks whether the server does
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if self._config.certificate is not None:
            context.load_cert_chain(self._config.certificate, self._config.private_key)
        return context


def _scheme(*, tls: bool) -> str:
    return "grpc+tls" if tls else "grpc"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _bearer(token: str) -> bytes:
    return f"Bearer {token}".encode()


def _stamp(path: str) -> tuple[int, int, int] | None:
    """Changes with a file."""
    with suppress(OSError):
        status = os.stat(path)
        return status.st_mtime_ns, status.st_ino, status.st_size
    return None
