"""Several data servers: the rows of threads whatever is lost and when; busy servers, slow clients and restarts."""

import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pyarrow.flight as flight
import pytest
from data.remote.serving import config_with, readers_of, stream_of
from data.stream_law import assert_same

from recap.data.open import open_sources
from recap.data.remote import server as server_module
from recap.data.remote import servers as servers_module
from recap.data.remote.access import Access
from recap.data.remote.server import DataServer
from recap.data.stream.source import Loader, Source
from recap.distributed import Ranks
from recap.errors import RunError

Start = Callable[..., DataServer]


@pytest.fixture
def sets(feed: Path) -> dict[str, Source]:
    return open_sources(config_with(feed))


@pytest.fixture
def start(sets: dict[str, Source], monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts servers of the same files, which clients try to reach again soon."""
    monkeypatch.setattr(servers_module, "_RETRY_SECONDS", 0.05)
    started: list[DataServer] = []

    def run(port: int = 0, **options: Any) -> DataServer:
        started.append(DataServer(sets, Access(port=port), **options))
        return started[-1]

    yield run
    for server in started:
        server.shutdown()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_rows_are_those_of_threads_while_servers_are_lost_and_come_back(count: int, feed: Path, start: Start) -> None:
    changes = random.Random(count)
    servers = [start() for _ in range(count)]
    lost = set[int]()
    config = config_with(feed, readers_of(servers, wait_seconds=60), num_epochs=2)
    for rank in range(2):
        stream, threads = stream_of(config), stream_of(config_with(feed, num_epochs=2))
        stream.ranks = threads.ranks = Ranks(rank=rank, world_size=2)
        for left, right in zip(stream, threads, strict=True):
            assert_same(left, right)
            if changes.random() < 0.4:
                index = changes.randrange(count)
                if index in lost or lost | {index} == set(range(count)):
                    servers[index].shutdown()
                    servers[index] = start(servers[index].port)
                    lost.discard(index)
                else:
                    servers[index].shutdown()
                    lost.add(index)


def test_a_server_that_comes_back_is_used_again_unless_its_data_are_others(feed: Path, start: Start) -> None:
    server, messages, ended = start(), list[str](), Event()

    def say(text: str) -> None:
        messages.append(text)
        if "0 left" in text:
            Thread(target=restart, daemon=True).start()

    def restart() -> None:
        start(server.port)
        ended.set()

    batches = iter(stream_of(config_with(feed, readers_of([server], count=1, wait_seconds=60), num_epochs=9), say=say))
    next(batches)
    server.shutdown()
    assert len(list(islice(batches, 30))) == 30
    assert ended.wait(60)
    where = f"the data server 127.0.0.1:{server.port} of 'train_data'"
    assert messages[0].startswith(f"lost {where}, 0 left: ")
    assert messages[0].endswith("waiting up to 60 seconds for one")
    assert messages[1] == f"{where} is back"


def test_a_run_fails_when_no_server_comes_back_in_time(feed: Path, start: Start) -> None:
    server, messages = start(), list[str]()
    readers = readers_of([server], count=1, wait_seconds=0.3)
    batches = iter(stream_of(config_with(feed, readers, num_epochs=9), say=messages.append))
    next(batches)
    server.shutdown()
    with pytest.raises(RunError, match=r"after waiting for 0\.3 seconds"):
        list(batches)
    assert len(messages) == 1


def test_a_server_that_has_returned_with_other_data_stays_lost(
    feed: Path, start: Start, sets: dict[str, Source]
) -> None:
    server, messages = start(), list[str]()
    batches = iter(
        stream_of(config_with(feed, readers_of([server], count=1, wait_seconds=1), num_epochs=9), say=messages.append)
    )
    next(batches)
    server.shutdown()
    sets["train_data"].contents["more"] = "1 row"
    start(server.port)
    with pytest.raises(RunError, match="serves other data as 'train_data'"):
        list(batches)
    assert ["stays lost: readers: 127.0.0.1" in message for message in messages] == [False, True]


def test_a_run_waits_for_its_first_server(feed: Path, start: Start) -> None:
    first = start()
    first.shutdown()
    lost = list[str]()

    def restart(message: str) -> None:
        if not lost:  # the next message says that it is back
            lost.append(message)
            start(first.port)

    stream = stream_of(config_with(feed, readers_of([first], wait_seconds=60)), say=restart)
    assert len(next(iter(stream))) == 64


def test_a_busy_server_makes_clients_wait(feed: Path, start: Start) -> None:
    server, messages = start(max_requests=1), list[str]()
    streams = [
        stream_of(config_with(feed, readers_of([server], count=4), num_epochs=2), say=messages.append) for _ in range(2)
    ]
    for left, right in zip(*streams, strict=True):
        assert_same(left, right)
    assert messages == []


class _Loader(Loader):
    """Counts what it reads, and may wait before."""

    def __init__(self, loader: Loader, before: Callable[[], None]) -> None:
        super().__init__(loader.config, loader.encoder, loader.skip)
        object.__setattr__(self, "before", before)

    def load(self, chunks: Sequence[Any]) -> Any:
        self.before()  # type: ignore[attr-defined]
        return super().load(chunks)


def request_of(server: DataServer, chunks: Sequence[int]) -> flight.Ticket:
    values = {"data_set": "train_data", "chunks": list(chunks), "compression": "none"}
    return flight.Ticket(json.dumps(values | {"fingerprint": server.fingerprints["train_data"]}).encode())


def test_a_client_that_does_not_read_holds_little_memory_and_one_place(
    feed: Path, start: Start, sets: dict[str, Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, produced = start(max_requests=1), []

    def endless(*_: Any) -> Iterator[bytes]:
        for _ in range(1000):
            produced.append(1)
            yield bytes(1 << 20)

    monkeypatch.setattr(server_module, "_messages", endless)
    client = flight.FlightClient(f"grpc://127.0.0.1:{server.port}")
    unread = client.do_get(request_of(server, [0]))
    next(iter(unread))
    before = -1
    while before != len(produced):  # until nothing more is produced
        before = len(produced)
        Event().wait(0.3)
    assert 0 < before < 100
    with pytest.raises(flight.FlightUnavailableError, match="busy") as caught:
        client.do_get(request_of(server, [0])).read_all()
    assert caught.value.extra_info == b"full"
    unread.cancel()
    del unread
    for _ in range(600):
        if server._free.acquire(timeout=0.1):
            break
    else:
        pytest.fail("the place of a client that is gone is not free")


def test_a_server_shows_that_it_is_alive_while_it_reads(
    feed: Path, start: Start, sets: dict[str, Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "HEARTBEAT_SECONDS", 0.01)
    server = start()
    expected = next(iter(stream_of(config_with(feed))))
    sets["train_data"].loader = _Loader(sets["train_data"].loader, lambda: time.sleep(0.1))
    client = flight.FlightClient(f"grpc://127.0.0.1:{server.port}")
    messages = [message.app_metadata.to_pybytes() for message in client.do_get(request_of(server, [0]))]
    assert messages[0] == b"alive"
    assert_same(next(iter(stream_of(config_with(feed, readers_of([server]))))), expected)


def test_rows_that_end_every_server_end_the_run(feed: Path, start: Start, sets: dict[str, Source]) -> None:
    def fail() -> None:
        raise MemoryError("no memory")

    server = start()
    sets["train_data"].loader = _Loader(sets["train_data"].loader, fail)
    batches = iter(stream_of(config_with(feed, readers_of([server], count=1, wait_seconds=60))))
    with pytest.raises(RunError, match=r"10 data servers in turn were lost while they read the same rows"):
        next(batches)
