"""A server in a thread of the test's process, and a small model for it."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

from support import Recorder, feed_config, write_feed

from recap.config.serving.server import ServerConfig
from recap.runs import find_model_directory
from recap.serving.server import Addresses, serve
from recap.training.trainer import train


def small_model(folder: Path) -> Path:
    """The directory of a model of the feed, after one step."""
    train(feed_config(write_feed(folder), folder / "run", training={"num_train_steps": 1}), Recorder())
    return find_model_directory(folder / "run")


@contextmanager
def running(folder: Path, **sections: Any) -> Iterator[Addresses]:
    """A server of the model in `folder`, as `feed`, on free ports; `sections`: other values of its configuration."""
    address: Mapping[str, Any] = {"http_port": 0, **sections.pop("address", {})}
    served = {"path": str(folder), **sections.pop("model", {})}
    models = {"feed": served, **sections.pop("models", {})}
    config = ServerConfig.model_validate({"models": models, "address": address, **sections})
    started: Queue[Addresses | BaseException] = Queue()
    stop = asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def run() -> None:
        loops.append(asyncio.get_running_loop())
        await serve(config, stop, started=started.put)

    def target() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:
            started.put(error)

    thread = Thread(target=target)
    thread.start()
    addresses = started.get(timeout=60)
    if isinstance(addresses, BaseException):
        thread.join()
        raise addresses
    try:
        yield addresses
    finally:
        loops[0].call_soon_threadsafe(stop.set)
        thread.join(timeout=60)
