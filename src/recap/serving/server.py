"""`serve`: models, engine and protocols of one process, in one event loop, from start to end."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from recap.config.serving.server import ServerConfig
from recap.errors import RunError
from recap.reporting import Say, say_to_stderr
from recap.serving.engine.batches import one_thread
from recap.serving.engine.engine import RankingEngine
from recap.serving.engine.shadow import background_pool
from recap.serving.grpc.server import build_server
from recap.serving.listener import Listener, bind
from recap.serving.models.served import ServedModel
from recap.serving.rest.app import build_app
from recap.serving.security import check_secrets
from recap.serving.watch.watch import Watch

_LAST_SECONDS = 1.0
"""Of the grace, kept for closing what does not end by itself."""


@dataclass(frozen=True)
class Addresses:
    """Where a server listens."""

    http: str
    """Such as `http://127.0.0.1:8080`."""
    grpc: str | None
    """Such as `127.0.0.1:8081`; None if gRPC is off."""


async def serve(
    config: ServerConfig,
    stop: asyncio.Event,
    say: Say = say_to_stderr,
    started: Callable[[Addresses], None] = lambda addresses: None,
) -> bool:
    """Load the models, and serve until `stop` is set; then finish open requests, for at most `grace_seconds`.

    `started` is called when requests are answered. Returns whether all clients were done in time; if not, connections
    and threads are left, and the process should end. Raises InputError for addresses that cannot be used and models
    that cannot be served, RunError if a protocol ends by itself.
    """
    check_secrets(config.address)
    stopping = asyncio.create_task(stop.wait())
    with bind(config.address, config.limits) as bound, Watch(config) as watch:
        loading = asyncio.create_task(asyncio.to_thread(_load, config, watch, say))
        await asyncio.wait([loading, stopping], return_when=asyncio.FIRST_COMPLETED)
        if not loading.done():
            return False
        models = loading.result()
        engine = RankingEngine(config, models, watch, say)
        try:
            listener = Listener(build_app(engine, config, watch), bound, config)
            grpc = build_server(engine, config, watch) if config.address.grpc_port is not None else None
            addresses = _addresses(config, bound.getsockname()[1], grpc.port if grpc is not None else None)
            listening = asyncio.create_task(listener.serve())
            if grpc is not None:
                await grpc.start()
            await asyncio.sleep(0)  # lets the listener start
            started(addresses)
            if config.page:
                say(f"page: {addresses.http}/")
            async with _reloading(models, config.reload.every_seconds, say):
                await asyncio.wait([listening, stopping], return_when=asyncio.FIRST_COMPLETED)
            if not stopping.done():
                stopping.cancel()
                raise RunError("the HTTP server ended by itself") from listening.exception()
            engine.drain()
            say("stopping: open requests are finished first")
            listener.stop()  # type: ignore[no-untyped-call]
            ends = [listening, *([asyncio.create_task(grpc.stop(config.grace_seconds))] if grpc is not None else [])]
            _, open_ends = await asyncio.wait(ends, timeout=max(config.grace_seconds - _LAST_SECONDS, 0.0))
            return not open_ends
        finally:
            engine.close()


def check_server(config: ServerConfig, say: Say = say_to_stderr) -> tuple[Addresses, dict[str, ServedModel]]:
    """Where a server would listen, and its models, loaded as for a start. Raises InputError as `serve`."""
    check_secrets(config.address)
    with Watch(config) as watch:
        models = _load(config, watch, say)
    return _addresses(config, config.address.http_port, config.address.grpc_port), models


def _load(config: ServerConfig, watch: Watch, say: Say) -> dict[str, ServedModel]:
    """Load all models, in a thread of its own."""
    one_thread()
    versions = len(config.models) + sum(model.rollout is not None for model in config.models.values())
    cache_bytes = (config.history_cache_mib or 0) * 2**20 // versions  # of each
    return {
        name: ServedModel(name, model, config.reload.golden, say, watch, cache_bytes)
        for name, model in config.models.items()
    }


@asynccontextmanager
async def _reloading(models: Mapping[str, ServedModel], seconds: float, say: Say) -> AsyncIterator[None]:
    """Look for other versions of the models from time to time, in a thread that yields to those of requests."""

    async def look() -> None:
        while True:
            await asyncio.sleep(seconds)
            for served in models.values():
                try:
                    await asyncio.get_running_loop().run_in_executor(pool, served.refresh)
                except Exception as error:  # a file system that fails for a while
                    say(f"model {served.name}: versions cannot be read ({type(error).__name__}: {error})")

    pool = background_pool("load")
    looking = asyncio.create_task(look())
    try:
        yield
    finally:
        looking.cancel()
        pool.shutdown(wait=False, cancel_futures=True)


def _addresses(config: ServerConfig, http: int, grpc: int | None) -> Addresses:
    host = f"[{config.address.host}]" if ":" in config.address.host else config.address.host
    scheme = "http" if config.address.certificate is None else "https"
    return Addresses(f"{scheme}://{host}:{http}", None if grpc is None else f"{host}:{grpc}")
