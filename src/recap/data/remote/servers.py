"""`Servers`: which data server takes the next request, and what happens when one is lost, busy, or comes back."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Condition, Thread
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.flight as flight

from recap.data.formats.object_stores import reason
from recap.data.remote.wire import FULL, one_line
from recap.errors import InputError, RunError
from recap.reporting import Say

Result = TypeVar("Result")

LOST = (flight.FlightError, pa.ArrowException, OSError)
"""What a call raises if its server is lost, or busy."""
_RETRY_SECONDS = 2.0
"""Time between two attempts to reach a lost server."""
_PAUSE_SECONDS = 0.05, 1.0
"""Shortest and longest time until a busy server is asked again."""
_MAX_LOSSES = 10
"""Losses during one request; its rows may be what ends the servers."""
_MAX_LISTED = 5
"""Servers listed in a message."""


@dataclass(eq=False)
class _Server:
    address: str
    client: Any = None
    """None while the server is lost."""
    cause: str = ""
    """Why it is lost."""
    connecting: bool = False
    requests: int = 0
    """Requests in work of this client."""
    last_turn: int = 0
    """Turn of its last request."""
    refusals: int = 0
    """Requests in a row for which it was busy."""
    next_try: float = 0.0
    """When it may be asked or reached again, by `time.monotonic`."""


class Servers:
    """The data servers of one data set. Thread-safe.

    A request goes to the server with the fewest requests in work. One that fails is lost: the request goes to another,
    and attempts to reach it go on in the background. While all are lost, requests wait.
    """

    def __init__(
        self, addresses: Sequence[str], connect: Callable[[str], Any], name: str, wait_seconds: float, say: Say
    ) -> None:
        """`connect`: the client of an address; raises InputError if that server must not be used, or one of `LOST`.

        `name`: the data set, for messages. Raises the InputError of a server, or RunError if none can be reached
        within `wait_seconds`.
        """
        self._servers = [_Server(address) for address in addresses]
        self._connect, self._name, self._wait_seconds, self._say = connect, name, wait_seconds, say
        self._changed = Condition()
        self._turn, self._lost_at = 0, time.monotonic()
        self._started = False
        self._refused: list[InputError] = []
        with self._changed:
            self._reach_lost()
            self._changed.wait_for(lambda: not any(server.connecting for server in self._servers))
            for server in self._servers:
                if server.client is None and not self._refused:
                    self._say_lost(server)
            while not self._refused and not self._reached():
                self._wait_for_one()
            if self._refused:
                raise self._refused[0]
            self._started = True

    def call(self, request: Callable[[str, Any], Result]) -> Result:
        """The result of `request`, called with an address and its client, until a server can do it.

        Raises what `request` raises, unless the server is lost or busy, and RunError if no server is left.
        """
        losses = 0
        while True:
            server, client = self._take()
            try:
                result = request(server.address, client)
                server.refusals = 0
                return result
            except LOST as error:
                if getattr(error, "extra_info", None) == FULL:
                    self._pause(server)
                    continue
                self._lose(server, client, error)
                losses += 1
                if losses == _MAX_LOSSES:
                    raise RunError(
                        f"readers: {losses} data servers in turn were lost while they read the same rows of "
                        f"{self._name!r}; the last, {server.address}: {_cause(error)}"
                    ) from None
            finally:
                with self._changed:
                    server.requests -= 1

    def _take(self) -> tuple[_Server, Any]:
        """The server of the next request, and its client."""
        with self._changed:
            while True:
                self._reach_lost()
                now = time.monotonic()
                reached = self._reached()
                free = [server for server in reached if server.next_try <= now]
                if free:
                    server = min(free, key=lambda server: (server.requests, server.last_turn))
                    self._turn += 1
                    server.requests, server.last_turn = server.requests + 1, self._turn
                    return server, server.client
                if reached:
                    self._changed.wait(min(server.next_try for server in reached) - now)
                else:
                    self._wait_for_one()

    def _reached(self) -> list[_Server]:
        return [server for server in self._servers if server.client is not None]

    def _wait_for_one(self) -> None:
        """Wait a moment for a server while all are lost. Raises RunError when they have been for `wait_seconds`."""
        left = self._lost_at + self._wait_seconds - time.monotonic()
        if left <= 0:
            listed = [f"  {server.address}: {server.cause}" for server in self._servers[:_MAX_LISTED]]
            if len(self._servers) > _MAX_LISTED:
                listed.append(f"  and {len(self._servers) - _MAX_LISTED} more")
            waited = f" after waiting for {self._wait_seconds:g} seconds" if self._wait_seconds else ""
            raise RunError(
                "\n".join(
                    [
                        f"readers: no data server is left for {self._name!r}{waited}. Lost:",
                        *listed,
                        "Start one with 'recap data serve CONFIG', or set readers: {kind: threads}",
                    ]
                )
            )
        self._reach_lost()
        self._changed.wait(min(left, _RETRY_SECONDS))

    def _reach_lost(self) -> None:
        """Start attempts to reach lost servers: each in a thread, because one may take long."""
        now = time.monotonic()
        for server in self._servers:
            if server.client is None and not server.connecting and server.next_try <= now:
                server.connecting = True
                Thread(target=self._reach, args=(server,), daemon=True, name="recap-data-server").start()

    def _reach(self, server: _Server) -> None:
        client, refused, cause = None, None, ""
        try:
            client = self._connect(server.address)
        except InputError as error:
            refused, cause = error, str(error)
        except Exception as error:
            cause = _cause(error)
        with self._changed:
            server.connecting, server.next_try = False, time.monotonic() + _RETRY_SECONDS
            if client is not None:
                server.client, server.next_try, server.refusals = client, 0.0, 0
                if self._started:
                    self._say(f"the data server {server.address} of {self._name!r} is back")
            elif refused is not None and not self._started:
                self._refused.append(refused)
            elif refused is not None and server.cause != cause:
                self._say(f"the data server {server.address} of {self._name!r} stays lost: {cause}")
            server.cause = cause
            self._changed.notify_all()

    def _pause(self, server: _Server) -> None:
        """Leave a busy server alone for a moment."""
        with self._changed:
            shortest, longest = _PAUSE_SECONDS
            server.next_try = time.monotonic() + min(shortest * 2.0**server.refusals, longest)
            server.refusals = min(server.refusals + 1, 10)

    def _lose(self, server: _Server, client: Any, error: BaseException) -> None:
        """Continue without a server, unless another request has noticed before."""
        with self._changed:
            if server.client is client:
                server.client, server.cause, server.next_try = None, _cause(error), 0.0
                if not self._reached():
                    self._lost_at = time.monotonic()
                self._say_lost(server)

    def _say_lost(self, server: _Server) -> None:
        left = len(self._reached())
        waits = "" if left or not self._wait_seconds else f"; waiting up to {self._wait_seconds:g} seconds for one"
        self._say(f"lost the data server {server.address} of {self._name!r}, {left} left: {server.cause}{waits}")


def _cause(error: BaseException) -> str:
    """Why a server is lost, without what gRPC adds for its own developers."""
    text = reason(error).partition(". gRPC client debug context")[0]
    for addition in (
        r"Flight returned unavailable error, with message: ",
        "failed to connect to all addresses; last error: ",
    ):
        text = text.replace(addition, "")
    return one_line(text)
