"""Rows read by data servers: the same batches, and errors for servers that differ, fail or misbehave."""

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, islice, repeat, takewhile
from pathlib import Path
from threading import Event
from typing import Any

import pyarrow as pa
import pyarrow.flight as flight
import pyarrow.parquet as pq
import pytest
from data.remote.serving import config_with, readers_of, stream_of
from data.stream_law import assert_resumes_everywhere, assert_same
from support import Recorder, feed_config, feed_values, write_feed
from training.runs import assert_same_run

from recap.config.file.load import config_of, dump_config
from recap.config.recap import JobMode, RecapConfig
from recap.data.encoding.assets import load_assets
from recap.data.open import open_sources, open_stream
from recap.data.remote import server as server_module
from recap.data.remote.access import Access
from recap.data.remote.server import DataServer
from recap.data.remote.wire import PROTOCOL, SCHEMA, RowCodec, message
from recap.data.stream.readers import Readers
from recap.errors import ConfigError, DataError, InputError, RunError
from recap.training.trainer import train

Serve = Callable[..., DataServer]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts servers, and shuts them down after the test."""
    started: list[DataServer] = []

    def start(config: RecapConfig, port: int = 0, max_requests: int = 16) -> DataServer:
        started.append(DataServer(open_sources(config), Access(port=port), max_requests))
        return started[-1]

    yield start
    for server in started:
        server.shutdown()


def unused_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.mark.parametrize("compression", ["none", "lz4", "zstd"])
def test_batches_equal_those_that_threads_read(compression: str, feed: Path, serve: Serve) -> None:
    served = serve(config_with(feed))
    config = config_with(feed, readers_of([served], compression=compression))
    for split, batches in ((None, 24), ("validation", 4)):
        threads = islice(stream_of(config_with(feed), split), batches)
        for left, right in zip(threads, stream_of(config, split), strict=False):
            assert_same(left, right)


def test_the_stream_resumes_exactly_at_every_batch(feed: Path, serve: Serve) -> None:
    servers = [serve(config_with(feed)), serve(config_with(feed))]
    assert_resumes_everywhere(lambda: stream_of(config_with(feed, readers_of(servers))), batches=12)
    cached = config_with(feed, readers_of(servers), cache=True)
    assert_resumes_everywhere(lambda: stream_of(cached), batches=12)


def test_histories_and_narrow_dtypes_arrive_unchanged(tmp_path: Path, serve: Serve) -> None:
    feed = write_feed(tmp_path, histories=True)
    changes = {
        "continuous": [{"name": "age", "dtype": "bfloat16"}],
        "binary": [{"name": "in_network", "dtype": "bool"}],
        "vectors": {"vector": {"length": 4, "dtype": "float16"}},
        "histories": {"watched": {"ids": {"column": "watched", "size": 50}, "max_length": 5}},
    }
    values = feed_values(feed, feed / "run")
    values["features"] |= changes
    values["model"]["histories"] = {"watched": {"encoder": {"kind": "pooling"}}}
    served = serve(config_of(values))
    threads = stream_of(config_of(values))
    values["train_data"]["readers"] = readers_of([served])
    for left, right in islice(zip(threads, stream_of(config_of(values)), strict=False), 12):
        assert_same(left, right)
        assert left.continuous.dtype == right.continuous.dtype


def test_the_files_of_a_server_can_be_in_another_folder(tmp_path: Path, serve: Serve) -> None:
    local, remote = write_feed(tmp_path / "local"), tmp_path / "remote"
    shutil.copytree(local, remote)
    served = serve(config_with(remote))
    assert len(next(iter(stream_of(config_with(local, readers_of([served])))))) == 64


def test_a_server_skips_the_bad_data_that_threads_skip(tmp_path: Path, serve: Serve) -> None:
    feed = write_feed(tmp_path)
    file = feed / "train" / "part-1.parquet"
    table = pq.read_table(file)
    labels = [7 if row in (3, 150) else label for row, label in enumerate(table.column("like").to_pylist())]
    index = table.schema.get_field_index("like")
    pq.write_table(table.set_column(index, "like", pa.array(labels)), file, row_group_size=70)
    file.write_bytes(file.read_bytes()[:-9000] + bytes(300) + file.read_bytes()[-8700:])
    skip = {"on_bad_data": {"kind": "skip", "budget": 10}}
    served = serve(config_with(feed, **skip))
    messages: dict[str, list[str]] = {"threads": [], "service": []}
    streams = [
        stream_of(config_with(feed, **skip), say=messages["threads"].append),
        stream_of(config_with(feed, readers_of([served]), **skip), say=messages["service"].append),
    ]
    for left, right in islice(zip(*streams, strict=False), 12):
        assert_same(left, right)
    assert messages["service"] == messages["threads"] != []
    stops = serve(config_with(feed))
    with pytest.raises(DataError, match=re.escape(str(file))):
        deque(islice(stream_of(config_with(feed, readers_of([stops]))), 12), maxlen=0)


def test_a_run_is_the_same_with_servers_as_with_threads(feed: Path, tmp_path: Path, serve: Serve) -> None:
    for name in ("threads", "service"):
        values = feed_values(feed, tmp_path / name)
        values["train_data"]["readers"] = (
            readers_of([serve(config_of(values))]) if name == "service" else {"kind": name}
        )
        train(config_of(values), Recorder())
    assert_same_run(tmp_path / "threads", tmp_path / "service", 12)


def test_a_lost_server_is_reported_and_the_last_one_ends_the_run(feed: Path, serve: Serve) -> None:
    servers = [serve(config_with(feed)), serve(config_with(feed))]
    messages: list[str] = []
    batches = iter(stream_of(config_with(feed, readers_of(servers, count=1), num_epochs=50), say=messages.append))
    next(batches)
    servers[0].shutdown()
    for _ in range(10):
        next(batches)
    assert len(messages) == 1
    assert re.match(rf"lost the data server 127\.0\.0\.1:{servers[0].port} of 'train_data', 1 left: ", messages[0])
    servers[1].shutdown()
    with pytest.raises(RunError, match=r"no data server is left for 'train_data'. Lost:\n  127.0.0.1:") as caught:
        deque(batches, maxlen=0)
    assert "Start one with 'recap data serve CONFIG'" in str(caught.value)


def test_an_address_without_a_server_is_reported(feed: Path, serve: Serve) -> None:
    nobody = f"127.0.0.1:{unused_port()}"
    with pytest.raises(RunError, match=f"no data server is left for 'train_data'. Lost:\n  {nobody}: "):
        stream_of(config_with(feed, {"kind": "service", "address": nobody, "wait_seconds": 0}))
    messages: list[str] = []
    both = readers_of([serve(config_with(feed))])
    both["address"].append(nobody)
    stream_of(config_with(feed, both), say=messages.append)
    assert messages[0].startswith(f"lost the data server {nobody}")


def test_a_server_of_another_configuration_or_data_is_refused(tmp_path: Path, serve: Serve) -> None:
    feed = write_feed(tmp_path)
    served = serve(feed_config(feed, feed / "run", features={"continuous": ["age"]}))
    with pytest.raises(
        DataError, match="serves 'train_data' of another configuration: its features, tasks, rates or vocab"
    ):
        stream_of(config_with(feed, readers_of([served])))
    served = serve(config_with(feed, tasks={"like": {}, "share": {"neg_downsampling_rate": 0.5}}))
    weighed = config_with(feed, readers_of([served]), sampling_correction="weights")
    with pytest.raises(DataError, match="of another configuration"):
        stream_of(weighed)
    served = serve(config_with(feed, source={"inputs": str(feed / "train" / "part-[01].parquet")}))
    with pytest.raises(DataError, match="serves other data as 'train_data': names, sizes or chunks of its files"):
        stream_of(config_with(feed, readers_of([served])))
    values = feed_values(feed, feed / "run")
    served = serve(config_of(values | {"validation_data": {}}))
    with pytest.raises(
        DataError, match=r"does not serve 'validation'. Served: train_data; start it with the configuration of"
    ):
        stream_of(config_with(feed, readers_of([served])), "validation")


def test_a_server_that_restarted_with_other_data_is_not_read(feed: Path, serve: Serve) -> None:
    served = serve(config_with(feed))
    stream = stream_of(config_with(feed, readers_of([served])))
    served.fingerprints["train_data"] = {"rows": "others", "files": "others"}
    with pytest.raises(RunError, match="this server has restarted with other data or another configuration"):
        next(iter(stream))


@pytest.mark.parametrize(
    "changes",
    [
        {"chunks": [-1]},
        {"chunks": [10_000]},
        {"chunks": ["0"]},
        {"chunks": [True]},
        {"chunks": "0"},
        {"data_set": "../etc/passwd"},
        {"compression": "gzip"},
        {"fingerprint": None},
    ],
)
def test_only_chunks_of_the_data_sets_are_served(changes: dict[str, Any], feed: Path, serve: Serve) -> None:
    served = serve(config_with(feed))
    good = {"data_set": "train_data", "chunks": [0], "compression": "none"}
    good["fingerprint"] = served.fingerprints["train_data"]
    with flight.FlightClient(f"grpc://127.0.0.1:{served.port}") as client:
        answer = list(client.do_get(flight.Ticket(json.dumps(good).encode())))
        assert [message.app_metadata is not None for message in answer] == [True, True]
        for ticket in (json.dumps(good | changes).encode(), b"\xff", b"[" * 100_000):
            with pytest.raises(flight.FlightServerError, match=r"not served here|has restarted"):
                client.do_get(flight.Ticket(ticket)).read_all()


class _OtherServer(flight.FlightServerBase):  # type: ignore[misc]
    """A server that answers as it likes."""

    def __init__(self, describe: Iterable[bytes], respond: Callable[[], Any] = list) -> None:
        super().__init__("grpc://127.0.0.1:0")
        self.describe, self.respond = describe, respond

    def do_action(self, context: Any, action: Any) -> Iterator[bytes]:
        yield from self.describe

    def do_get(self, context: Any, ticket: Any) -> Any:
        return self.respond()


_SETS = b'{"protocol": 4, "data_sets": '


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"hello", "is not a 'recap data serve' server"),
        (b"", "is not a 'recap data serve' server"),
        (b"[1]", "is not a 'recap data serve' server"),
        (b"[" * 1_000_000, "is not a 'recap data serve' server"),
        (b'{"protocol": NaN, "data_sets": {}}', "is not a 'recap data serve' server"),
        (b'{"protocol": 2.5, "data_sets": {}}', "is not a 'recap data serve' server"),
        (b'{"protocol": 1e400, "data_sets": {}}', "is not a 'recap data serve' server"),
        (_SETS + b'{"train_data": 7}}', "is not a 'recap data serve' server"),
        (_SETS + b'{"train_data": {"rows": NaN, "files": "x"}}}', "is not a 'recap data serve' server"),
        (_SETS + b"[]}", "is not a 'recap data serve' server"),
        (
            _SETS + json.dumps({f"{n}\n": {"rows": "", "files": ""} for n in range(9999)}).encode() + b"}",
            "19; start it",
        ),
        (b'{"protocol": 0, "data_sets": {}}', "runs another version of recap"),
    ],
)
def test_a_server_of_another_program_is_refused(answer: bytes, message: str, feed: Path) -> None:
    with _OtherServer(repeat(answer)) as server:
        address = f"127.0.0.1:{server.port}"
        with pytest.raises(DataError, match=message) as caught:
            stream_of(config_with(feed, {"kind": "service", "address": address, "wait_seconds": 0}))
        assert "\n" not in str(caught.value)


def test_an_answer_beyond_the_limit_is_not_received(feed: Path) -> None:
    with _OtherServer([b" " * (20 << 20)]) as server:
        address = f"127.0.0.1:{server.port}"
        with pytest.raises(RunError, match=f"no data server is left .* Lost:\n  {address}: Flight"):
            stream_of(config_with(feed, {"kind": "service", "address": address, "wait_seconds": 0}))


def other_responses(codec: RowCodec, rows: bytes) -> dict[str, tuple[Callable[[], Any], str]]:
    """Responses to a request for a chunk of 70 rows, compressed with zstd, with what is wrong in each."""
    good, header = pa.compress(rows, "zstd"), b"{}"

    def streamed(*messages: Any) -> Callable[[], Any]:
        return lambda: flight.GeneratorStream(SCHEMA, map(message, messages))

    def forever(*messages: Any) -> Callable[[], Any]:
        return lambda: flight.GeneratorStream(SCHEMA, map(message, chain(messages, repeat(messages[-1]))))

    def headed(**values: Any) -> bytes:
        return json.dumps(values).encode()

    def damaged(tensor: str, value: int) -> Any:
        size = codec.bytes[tensor]
        start = 70 * sum(codec.bytes[name] for name in takewhile(lambda name: name != tensor, codec.bytes))
        return pa.compress(rows[:start] + bytes([value]) * 70 * size + rows[start + 70 * size :], "zstd")

    other = pa.record_batch({"x": [1]})
    bad = [["part-0.parquet", "row 1", "text"]]
    return {
        "no header": (streamed(good), "metadata that are not those of a chunk"),
        "nothing": (streamed(), "a chunk without its header"),
        "columns": (lambda: flight.GeneratorStream(other.schema, iter([other])), "columns of another schema"),
        "no JSON": (streamed(b"\xff"), "metadata that are not those of a chunk"),
        "deep JSON": (streamed(b"[" * 10**6), "metadata that are not those of a chunk"),
        "NaN": (streamed(b'{"bad_rows": [NaN]}'), "metadata that are not those of a chunk"),
        "a row of true": (streamed(headed(bad_rows=[True])), "metadata that are not those of a chunk"),
        "a row of -1": (streamed(headed(bad_rows=[-1], bad_data=bad)), "metadata that are not those of a chunk"),
        "a row twice": (streamed(headed(bad_rows=[1, 1], bad_data=bad)), "not ascending numbers below 70"),
        "a row of others": (streamed(headed(bad_rows=[70], bad_data=bad)), "not ascending numbers below 70"),
        "no errors": (streamed(headed(bad_rows=[1])), "0 errors for 1 bad row"),
        "another file": (
            streamed(headed(bad_rows=[*range(70)], bad_data=[["/etc", "", ""]])),
            "an error of an unknown file",
        ),
        "no rows": (streamed(header), "another number of rows for a chunk of 70"),
        "too few bytes": (streamed(header, pa.compress(rows[:-1], "zstd")), "fewer bytes than those of 70 rows"),
        "gigabytes": (streamed(header, pa.compress(bytes(1 << 28), "zstd")), "more bytes than those of 70 rows"),
        "not compressed": (streamed(header, rows), "a damaged message"),
        "cut short": (streamed(header, good[:-9]), "a damaged message|fewer bytes"),
        "endless headers": (forever(header), "a damaged message"),
        "endless rows": (forever(header, good), "more than the requested rows"),
        "codes": (streamed(header, damaged("discrete", 77)), "a code of 'discrete' outside 0 to"),
        "a long error": (streamed(headed(error="x\n" * 10**6)), "^(x ){1000}…$"),
    }


def test_every_value_of_a_response_is_checked(feed: Path, serve: Serve) -> None:
    good = serve(config_with(feed))
    codec, source = good.codecs["train_data"], good.sets["train_data"]
    (rows,) = codec.encode(source.loader.load(source.chunks[:1]).batches[0], "none")
    describe = json.dumps({"protocol": PROTOCOL, "data_sets": good.fingerprints}).encode()
    with _OtherServer([describe]) as server:
        for name, (respond, message) in other_responses(codec, rows).items():
            server.respond = respond
            readers = readers_of([server], count=1, compression="zstd")
            config = config_with(feed, readers, shuffle_window_rows=0)
            with pytest.raises(DataError if name == "a long error" else RunError, match=message):
                next(iter(stream_of(config)))


def test_a_server_stops_while_a_client_does_not_read(feed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "STOP_SECONDS", 0.2)
    server = DataServer(open_sources(config_with(feed)), Access())
    release = Event()
    monkeypatch.setattr(server_module, "_messages", lambda *_: (release.wait() for _ in range(1)))
    request = {"data_set": "train_data", "chunks": [0], "compression": "none"}
    request["fingerprint"] = server.fingerprints["train_data"]
    client = flight.FlightClient(f"grpc://127.0.0.1:{server.port}")
    unread = client.do_get(flight.Ticket(json.dumps(request).encode()))
    assert not server.stop()
    release.set()
    with pytest.raises(flight.FlightError):
        unread.read_all()


def test_a_response_with_other_rows_is_refused(feed: Path, serve: Serve) -> None:
    served = serve(config_with(feed))
    stream = stream_of(config_with(feed, readers_of([served])))
    source = served.sets["train_data"]
    source.chunks = source.chunks[::-1]  # the last chunk of a file is shorter
    with pytest.raises(RunError, match="sent an unexpected response"):
        deque(islice(stream, 12), maxlen=0)


@pytest.mark.parametrize("address", ["localhost", "grpc://a:1", "a:0", "a:65536", [], ["a:1", 3], "a/b:1", ""])
def test_an_invalid_address_is_refused(address: Any, feed: Path) -> None:
    with pytest.raises(ConfigError, match=r"train_data\.readers.*address"):
        config_with(feed, {"kind": "service", "address": address, "wait_seconds": 0})


def test_a_port_in_use_is_refused(feed: Path, serve: Serve) -> None:
    served = serve(config_with(feed))
    with pytest.raises(InputError, match=f"127.0.0.1:{served.port}: cannot listen .*choose another"):
        serve(config_with(feed), served.port)


@contextmanager
def running(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A process that is killed at the end, also after a failed assertion."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_the_command_serves_until_it_is_stopped(feed: Path, tmp_path: Path) -> None:
    (tmp_path / "ranker.yaml").write_text(dump_config(config_with(feed)))
    port = unused_port()
    command = [sys.executable, "-m", "recap", "data", "serve", str(tmp_path / "ranker.yaml"), "--port", str(port)]
    with running(command) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == f"reading the files of {tmp_path / 'ranker.yaml'} …\n"
        first = server.stdout.readline()
        assert first == f"serving train_data, validation at 127.0.0.1:{port}\n"
        assert server.stdout.readline() == "anyone who can connect can read these rows; connections are not encrypted\n"
        config = config_with(feed, {"kind": "service", "address": f"localhost:{port}", "wait_seconds": 0})
        batches = iter(stream_of(config))
        assert_same(next(batches), next(iter(stream_of(config_with(feed)))))
        server.kill()
        server.wait(60)
        with pytest.raises(RunError, match="no data server is left"):
            deque(islice(batches, 1000), maxlen=0)
    with running(command) as server:
        assert server.stdout is not None
        started = [server.stdout.readline() for _ in range(3)]
        assert started[1:] == [first, "anyone who can connect can read these rows; connections are not encrypted\n"]
        server.send_signal(signal.SIGTERM)
        assert server.stdout.readline() == "stopping: requests in work are finished first\n"
        assert server.wait(60) == 0
    with running(command) as server:
        assert server.stdout is not None
        server.stdout.readline()
        server.send_signal(signal.SIGTERM)
        output, _ = server.communicate(timeout=60)
        before = ("stopped by SIGTERM before it served\n", 143)  # or it served already, on a fast machine
        assert (output, server.returncode) == before or (output.endswith("finished first\n") and not server.returncode)


def test_inference_reads_without_servers(feed: Path) -> None:
    config = config_with(feed, {"kind": "service", "address": f"127.0.0.1:{unused_port()}"})
    stream = open_stream(config, load_assets(config.features), JobMode.INFERENCE)
    assert isinstance(stream.readers, Readers)
    assert len(next(iter(stream))) == 64
