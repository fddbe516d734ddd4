"""`recap serve`: models answer requests over HTTP and gRPC."""

from importlib.util import find_spec
from typing import Annotated

import typer

from recap.errors import InputError

_PACKAGES = ("granian", "starlette", "orjson", "prometheus_client", "grpc", "grpc_health")
"""Of the extra `serve`."""


def serve(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME=]PATH",
            help="Model directory, run, or folder of model directories, each of which is a version; the newest is "
            "served, unless models.NAME.version is set. NAME is by default that of the folder.",
            show_default=False,
        ),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option("--config", metavar="FILE", help="YAML file of the server.", show_default=False),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="SECTION.KEY=VALUE",
            help="Override of the server's configuration, such as batching.window_ms=1. May be repeated.",
            show_default=False,
        ),
    ] = None,
    host: Annotated[
        str | None, typer.Option(metavar="HOST", help="Address to listen on; default: 127.0.0.1.", show_default=False)
    ] = None,
    port: Annotated[
        int | None, typer.Option(metavar="PORT", help="Port of REST; default: 8080.", show_default=False)
    ] = None,
    grpc_port: Annotated[
        int | None, typer.Option(metavar="PORT", help="Port of gRPC; default: gRPC is off.", show_default=False)
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Listen on an address that is not loopback without token or mTLS.")
    ] = False,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Load everything as for a start, print what would be served, and exit without listening.",
        ),
    ] = False,
) -> None:
    """Serve models over HTTP and gRPC until SIGTERM or Ctrl-C.

    New versions of a model are taken as they appear; a second signal stops at once.
    """
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise InputError(f"recap serve: not installed: {', '.join(missing)}; run pip install 'recap-ranker[serve]'")

    import asyncio

    from recap.native.allocator import tune_process
    from recap.serving.configuration import load_server_config

    options: dict[str, tuple[str, object]] = {
        "address.host": ("--host", host),
        "address.http_port": ("--port", port),
        "address.grpc_port": ("--grpc-port", grpc_port),
        "address.insecure": ("--insecure", insecure or None),
    }
    given = {key: option for key, option in options.items() if option[1] is not None}
    loaded = load_server_config(config, models or [], given, overrides or [])

    from recap.cli.terminal.server import print_check, serve_until_signal

    tune_process()
    if check:
        print_check(loaded)
        return
    asyncio.run(serve_until_signal(loaded))
