"""A server in a terminal: what it prints, and the signals that end it."""

import asyncio
import os
import signal
import sys

from recap.config.file.environment import hide
from recap.config.serving.server import ServerConfig
from recap.reporting import say_to_stderr
from recap.serving.server import Addresses, check_server, serve

_SWITCH_SECONDS = 0.001
"""How long a thread holds the interpreter while others wait: the event loop waits this long for each busy thread."""


async def serve_until_signal(config: ServerConfig) -> None:
    """Serve until SIGTERM or SIGINT; a second one ends the process at once."""
    stop = asyncio.Event()
    sys.setswitchinterval(_SWITCH_SECONDS)

    def end(number: int) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, end, number)
    if not await serve(config, stop, _say, _say_started):
        # Clients that never finish hold connections and threads, which Python would wait for.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def print_check(config: ServerConfig) -> None:
    """Check everything that a start needs, except that the ports are free, and print what would be served."""
    addresses, models = check_server(config, _say)
    listed = ", ".join(
        f"{name} ({' and '.join(version.name for version in reversed(model.versions))})"
        for name, model in models.items()
    )
    print(hide(f"no problems. Would serve {listed} on {_where(addresses)}"))


def _say(text: str) -> None:
    say_to_stderr(hide(text))


def _say_started(addresses: Addresses) -> None:
    _say(f"serving on {_where(addresses)}; stop with Ctrl-C")


def _where(addresses: Addresses) -> str:
    return addresses.http + (f", gRPC on {addresses.grpc}" if addresses.grpc is not None else "")
