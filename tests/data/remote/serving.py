"""Data servers and their clients in one process."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from support import feed_values

from recap.config.file.load import config_of
from recap.config.recap import JobMode, RecapConfig
from recap.data.encoding.assets import load_assets
from recap.data.open import open_stream
from recap.data.remote.server import DataServer
from recap.data.stream.batch_stream import BatchStream


def config_with(feed: Path, readers: dict[str, Any] | None = None, **train_data: Any) -> RecapConfig:
    values = feed_values(feed, feed / "run")
    values["train_data"] |= train_data | ({"readers": readers} if readers is not None else {})
    return config_of(values)


def readers_of(servers: Sequence[DataServer], **config: Any) -> dict[str, Any]:
    address = [f"127.0.0.1:{server.port}" for server in servers]
    return {"kind": "service", "address": address, "wait_seconds": 0, **config}


def stream_of(config: RecapConfig, split: str | None = None, say: Callable[[str], None] = print) -> BatchStream:
    mode = JobMode.TRAIN if split is None else JobMode.EVALUATE
    return open_stream(config, load_assets(config.features), mode, split, say)
