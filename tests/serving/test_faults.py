"""Faults of clients: a running server refuses them, and answers the next good request."""

import gzip
import json
import random
import re
import socket
import struct
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path
from typing import Any

import grpc
import pytest
from serving.faults import (
    PATIENCE,
    Answer,
    Served,
    answers_of,
    chunked,
    everything,
    head,
    infer_stub,
    large_request,
    message_of,
    post,
    process,
    rank_body,
    read_answer,
    read_answers,
    scores_of,
    stopped,
    tensors,
)
from serving.running import small_model

pytestmark = pytest.mark.slow

MIB = 2**20
CONNECTIONS, QUEUE, DEPTH = 24, 8, 16
SETTINGS = (
    "limits.body_mib=1",
    "limits.decompressed_mib=8",
    "limits.header_seconds=0.5",
    "limits.body_seconds=0.5",
    f"limits.connections={CONNECTIONS}",
    f"limits.json_depth={DEPTH}",
    f"batching.max_queue={QUEUE}",
    "batching.threads=1",
    "grace_seconds=10",
)
CLOSE = {"Connection": "close"}
JSON = {"Content-Type": "application/json"}
LARGE, LARGE_HEADERS = large_request(9000)
"""A request that keeps the model busy for some time."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def expected(model: Path) -> list[float]:
    """The scores of a good request."""
    return scores_of(model)


@pytest.fixture(scope="module")
def served(model: Path) -> Iterator[Served]:
    """A server with small limits."""
    with process(f"feed={model}", *SETTINGS) as served:
        yield served
        assert stopped(served) == 0


@pytest.fixture
def stub(served: Served) -> Iterator[Any]:
    """`ModelInfer` over gRPC."""
    with grpc.insecure_channel(served.grpc) as channel:
        yield infer_stub(channel)


def infer_body(**changes: Any) -> bytes:
    """A request of `infer` in JSON; `changes`: to its first input."""
    first, *others = tensors()
    return json.dumps({"inputs": [{**first, **changes}, *others]}).encode()


def infer(served: Served, body: bytes, headers: Mapping[str, str] | None = None) -> Answer:
    return served.ask(body, "/v2/models/feed/infer", headers)


# Bytes that are not a request of HTTP/1.1.

HELLO = b"Host: x\r\n"


@pytest.mark.parametrize(
    ("sent", "statuses"),
    [
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 100, [400], id="TLS"),
        pytest.param(random.Random(0).randbytes(4000), [400], id="noise"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]), [], id="HTTP/2"),
        pytest.param(b"GET /v2 HTTP/3.0\r\n" + HELLO + b"\r\n", [400], id="HTTP/3"),
        pytest.param(b"GET /v2/models/\xff\xfe HTTP/1.1\r\n" + HELLO + b"\r\n", [400], id="bytes in a path"),
        pytest.param(b"GET /v2/models/\x00 HTTP/1.1\r\n" + HELLO + b"\r\n", [400], id="NUL in a path"),
        pytest.param(b"GET /v2 HTTP/1.1\r\nX: a\r\n b\r\n\r\n", [400], id="a header over two lines"),
        pytest.param(head("GET", "/v2", {f"X-{index}": "a" for index in range(1000)}), [431], id="many headers"),
        pytest.param(head("GET", "/v2", {"X": "a" * MIB}), [431], id="a long header"),
        pytest.param(head("GET", "/" + "a" * 100_000), [414], id="a long path"),
        pytest.param(head("POST", "/v1/rank", JSON | {"Content-Length": "-1"}), [400], id="a negative length"),
        pytest.param(head("POST", "/v1/rank", JSON | {"Content-Length": "9" * 40}), [400], id="an endless length"),
        pytest.param(
            head("POST", "/v1/rank", {"Content-Length": "5", "content-length": "6"}) + b"hello!",
            [400],
            id="two lengths",
        ),
        pytest.param(head("POST", "/v1/rank", {"Transfer-Encoding": "xchunked"}) + b"0\r\n\r\n", [400], id="a coding"),
        pytest.param(
            head("POST", "/v1/rank", {"Transfer-Encoding ": "chunked"}) + b"0\r\n\r\n", [400], id="a space in a name"
        ),
    ],
)
def test_what_is_not_http_ends_its_connection(
    served: Served, expected: Sequence[float], sent: bytes, statuses: list[int]
) -> None:
    answers = served.exchange(sent)
    assert [(answer.status, answer.body) for answer in answers] == [(status, b"") for status in statuses]
    assert served.is_good(expected)


@pytest.mark.parametrize("order", [1, -1])
def test_a_body_with_length_and_chunks_hides_no_second_request(
    served: Served, expected: Sequence[float], order: int
) -> None:
    hidden = head("GET", "/v2")
    lengths = [("Content-Length", str(len(hidden))), ("Transfer-Encoding", "chunked")][::order]
    answers = served.exchange(head("POST", "/v1/rank", JSON | dict(lengths)) + b"0\r\n\r\n" + hidden)
    assert [answer.status for answer in answers] == [400]
    assert "not JSON" in answers[0].error
    assert answers[0].headers["connection"] == "close"
    assert served.is_good(expected)


@pytest.mark.parametrize(
    "chunks",
    [b"zz\r\n", b"ffffffffffffffffff\r\n", b"5\r\nabcdefgh\r\n", b"1;" + b"a" * 200_000 + b"\r\nx\r\n0\r\n\r\n"],
)
def test_malformed_chunks_are_refused(served: Served, expected: Sequence[float], chunks: bytes) -> None:
    (answer,) = served.exchange(*chunked([]), chunks)
    assert answer.status == 400
    assert "its chunks are malformed" in answer.error
    assert served.is_good(expected)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v2/models/..%2f..%2fetc%2fpasswd", 404),
        ("/v2/models/../../etc/passwd", 404),
        ("/v2/models/feed/versions/..%2f..", 404),
        ("/v2/models/feed/versions/..", 404),
        ("/v2/models/.", 404),
        ("/v2/models/%00", 404),
        ("/v2/models/%0d%0aX:%20y", 404),
        ("/v2/models/%ff%fe", 404),
        ("/v2/models/%ed%a0%80", 404),
        ("/v2/models/feed/versions/%ff", 404),
        ("/v2/models/%", 404),
        ("/v2/models/" + "a" * 3000, 404),
        ("//", 404),
        ("/?a=%ff", 404),
        ("*", 404),
        ("http://elsewhere/v2/models/x", 404),
    ],
)
def test_a_path_leads_to_models_only(served: Served, expected: Sequence[float], path: str, status: int) -> None:
    answer = served.get(path)
    assert (answer.status, "x" in answer.headers) == (status, False)
    assert len(answer.error) < 300
    assert served.is_good(expected)


@pytest.mark.parametrize("method", ["OPTIONS", "TRACE", "DELETE", "PUT", "CONNECT", "MISSING"])
def test_other_methods_are_refused(served: Served, expected: Sequence[float], method: str) -> None:
    (answer,) = served.exchange(head(method, "/v1/rank", CLOSE | {"X-Secret": "repeated?"}))
    assert (answer.status, answer.headers["allow"]) == (405, "POST")
    assert "repeated?" not in answer.error
    assert served.is_good(expected)


@pytest.mark.parametrize(("path", "status"), [("/v2", b"200"), ("/v1/rank", b"405"), ("/missing", b"404")])
def test_head_has_no_body(served: Served, expected: Sequence[float], path: str, status: bytes) -> None:
    with served.connect() as client:
        client.sendall(head("HEAD", path, CLOSE))
        top, end, rest = everything(client).partition(b"\r\n\r\n")
    assert (top.split()[1], end, rest) == (status, b"\r\n\r\n", b"")
    assert served.is_good(expected)


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("Authorization", 200),
        ("X-Request-Id", 200),
        ("Accept-Encoding", 200),
        ("traceparent", 200),
        ("X-Anything", 200),
        ("X-Request-Deadline-Ms", 400),
        ("Inference-Header-Content-Length", 400),
        ("Content-Type", 415),
        ("Content-Encoding", 415),
    ],
)
@pytest.mark.parametrize("value", ["\xff\xfe", "a" * 5000])
def test_headers_may_hold_any_bytes(
    served: Served, expected: Sequence[float], name: str, status: int, value: str
) -> None:
    answer = infer(served, infer_body(), {name: value})
    assert answer.status == status
    assert status == 200 or len(answer.error) < 300
    assert served.is_good(expected)


@pytest.mark.parametrize("value", ["-1", "99999999", "0", "5", "1e3", "", "+5", "5,5", "9" * 30])
def test_the_length_of_the_json_must_be_that_of_json(served: Served, expected: Sequence[float], value: str) -> None:
    answer = infer(served, infer_body(), {"Inference-Header-Content-Length": value})
    assert (answer.status, bool(answer.error)) == (400, True)
    assert served.is_good(expected)


def test_a_client_that_waits_for_100_continue_is_told_to_go_on_or_refused(
    served: Served, expected: Sequence[float]
) -> None:
    body = rank_body()
    with served.connect() as client:
        client.sendall(post(body, headers=CLOSE | {"Expect": "100-continue"}).removesuffix(body))
        assert client.recv(100).startswith(b"HTTP/1.1 100 ")
        client.sendall(body)
        (answer,) = answers_of(everything(client))
    assert answer.scores() == expected
    (answer,) = served.exchange(
        head("POST", "/v1/rank", JSON | {"Expect": "100-continue", "Content-Length": str(2 * MIB)})
    )
    assert answer.status == 413
    assert served.is_good(expected)


def test_a_connection_is_kept_for_further_requests_until_it_is_idle_too_long(
    served: Served, expected: Sequence[float]
) -> None:
    with served.connect() as client:
        for count in (1, 3):
            client.sendall(post(rank_body()) * count)
            assert [answer.scores() for answer in read_answers(client, count)] == [expected] * count
        assert everything(client) == b""  # the server ends it
    assert served.is_good(expected)


# Clients that are slow, or send too much.


def test_clients_that_send_drop_by_drop_are_cut_off(served: Served, expected: Sequence[float]) -> None:
    whole = post(rank_body())
    start = len(whole) - len(rank_body())
    ends = time.monotonic() + PATIENCE
    with ExitStack() as stack:
        slow_heads = [stack.enter_context(served.connect()) for _ in range(8)]
        slow_bodies = [stack.enter_context(served.connect()) for _ in range(8)]
        for client in slow_bodies:
            client.sendall(whole[:start])
        for index in range(start):
            for client, at in [*((client, index) for client in slow_heads), *((c, start + index) for c in slow_bodies)]:
                with suppress(ConnectionError):
                    client.sendall(whole[at : at + 1])
            if index % 5 == 0:
                assert served.is_good(expected)
            time.sleep(0.02)
        assert time.monotonic() < ends
        for client in slow_heads:
            assert everything(client) == b""
        for client in slow_bodies:
            (answer,) = answers_of(everything(client))
            assert answer.status == 408
            assert "did not arrive within 0.5 seconds" in answer.error
    assert served.is_good(expected)


def test_clients_that_do_not_read_are_cut_off(served: Served, expected: Sequence[float]) -> None:
    with ExitStack() as stack:
        for _ in range(CONNECTIONS):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.settimeout(0.3)
            client.connect(("127.0.0.1", served.port))
            with suppress(TimeoutError, ConnectionError):
                client.sendall(head("GET", "/openapi.json") * 3000)
        assert served.is_good(expected)


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(head("POST", "/v1/rank", JSON | {"Content-Length": str(2 * MIB)}), id="a length"),
        pytest.param(post(b" " * 2 * MIB), id="a body"),
        pytest.param(b"".join(chunked([b" " * 65536] * 32)), id="chunks"),
    ],
)
def test_a_body_beyond_the_limit_is_refused_before_its_end(
    served: Served, expected: Sequence[float], sent: bytes
) -> None:
    (answer,) = served.exchange(sent)
    assert (answer.status, answer.headers["connection"]) == (413, "close")
    assert "larger than 1 MiB" in answer.error
    assert served.is_good(expected)


def test_a_flood_of_tiny_chunks_holds_up_no_other_request(served: Served, expected: Sequence[float]) -> None:
    flood = b"".join(chunked([b" "] * 300_000))
    before = served.forget_peak()
    with ThreadPoolExecutor(4) as pool:
        floods = [pool.submit(served.exchange, flood) for _ in range(4)]
        assert served.is_good(expected)
        for answers in floods:
            assert [answer.status for answer in answers.result()] == [408]
    assert served.memory("VmHWM") - before < 64 * MIB
    assert served.is_good(expected)


@cache
def bomb(encoding: str) -> bytes:
    """Less than 1 MiB that inflates to 200 MiB."""
    packer = zlib.compressobj(1, wbits={"gzip": 31, "deflate": 15}[encoding])
    return b"".join([*(packer.compress(bytes(MIB)) for _ in range(200)), packer.flush()])


@pytest.mark.parametrize(
    ("encoding", "make", "status", "text"),
    [
        ("gzip", lambda: bomb("gzip"), 413, "inflates to more than 8 MiB"),
        ("deflate", lambda: bomb("deflate"), 413, "inflates to more than 8 MiB"),
        ("gzip", lambda: gzip.compress(bytes(MIB)) * 100, 413, "inflates to more than 8 MiB"),
        ("gzip", lambda: gzip.compress(bomb("gzip")), 400, "not JSON"),
        ("gzip, gzip", lambda: gzip.compress(bomb("gzip")), 415, "expected gzip, deflate or none"),
        ("br", lambda: b"x", 415, "expected gzip, deflate or none"),
        ("gzip", lambda: b"", 400, "the body ends before"),
        ("gzip", lambda: random.Random(0).randbytes(100_000), 400, "the body is not"),
        ("gzip", lambda: gzip.compress(rank_body())[:-9], 400, "the body ends before"),
        ("gzip", lambda: gzip.compress(rank_body()) + b"more", 400, "the body ends before"),
        ("gzip", lambda: gzip.compress(rank_body())[:-8] + bytes(8), 400, "the body is not"),
        ("gzip", lambda: gzip.compress(rank_body()) + bytes(100), 400, "the body is not"),
        ("gzip", lambda: gzip.compress(b"") * 50_000, 400, "more than 10,000 members"),
        ("deflate", lambda: zlib.compress(rank_body()) + b"more", 400, "goes on after"),
    ],
)
def test_bodies_that_inflate_without_end_or_not_at_all_are_refused(
    served: Served, expected: Sequence[float], encoding: str, make: Callable[[], bytes], status: int, text: str
) -> None:
    body = make()
    assert len(body) < MIB
    before = served.forget_peak()
    answer = served.ask(body, headers={"Content-Encoding": encoding})
    assert (answer.status, text in answer.error) == (status, True), answer.body
    assert served.memory("VmHWM") - before < 48 * MIB
    assert served.is_good(expected)


# JSON and tensors.


EMPTY = b'{"name":"%d","datatype":"FP32","shape":[0],"data":[]}'


@pytest.mark.parametrize(
    "body",
    [
        b"[" * (MIB - 1),
        b'{"candidates":' * 60_000,
        b'{"candidates": [' + b"[" * DEPTH + b"]" * DEPTH + b"]}",
        b'{"user": {"a": ' + b'{"a": ' * 50_000 + b"1" + b"}" * 50_000 + b"}, " + rank_body()[1:],
        b"\xef\xbb\xbf" + rank_body(),
        b"\xff\xfe\x00",
        b'{"candidates": [{"age": "\\ud800"}]}',
        b'{"candidates": NaN}',
        b'{"candidates": [{"age": 1e999}]}',
        b'{"candidates": [{"age": ' + b"9" * 500_000 + b"}]}",
        b'"' * 500_001,
        b"\\" * 500_000,
        b'{"candidates": [' + b"{}," * 300_000 + b"{}]}",
        b'{"candidates": [{' + b",".join(b'"%d":1' % index for index in range(90_000)) + b"}]}",
        b'{"inputs": [' + b",".join(EMPTY % (index % 16_000) for index in range(16_001)) + b"]}",
        b'{"candidates": [{}], "weights": {"like": 1}}',
        b"",
        b"null",
    ],
)
def test_json_that_is_no_request_is_refused(served: Served, expected: Sequence[float], body: bytes) -> None:
    before = served.forget_peak()
    for path in ("/v1/rank", "/v2/models/feed/infer"):
        answer = served.ask(body, path)
        assert answer.status == 400
        assert len(answer.error) < 500
    assert served.memory("VmHWM") - before < 200 * MIB
    assert served.is_good(expected)


BAD_INPUTS: list[dict[str, Any]] = [
    {"shape": [2**62, 4]},
    {"shape": [2**62, 4, 2**62, 0]},
    {"shape": [2**62]},
    {"shape": [2**31, 2**31]},
    {"shape": [2**63 - 1, 2]},
    {"shape": [-1]},
    {"shape": [-(2**63), 2]},
    {"shape": [0]},
    {"shape": [0, 2**62]},
    {"shape": [2**62, 0]},
    {"shape": []},
    {"shape": [2] + [1] * 100},
    {"shape": [2, 2]},
    {"shape": [3]},
    {"shape": [10**9]},
    {"name": "missing"},
    {"name": "hour"},
    {"name": "a" * 100_000},
    {"name": "\x00"},
    {"name": ""},
    {"datatype": "BYTES"},
    {"datatype": "FP128"},
    {"datatype": ""},
    {"datatype": "fp32"},
]


@pytest.mark.parametrize("changes", BAD_INPUTS, ids=lambda changes: str(changes)[:40])
def test_an_input_that_does_not_fit_is_refused_over_rest_and_grpc(
    served: Served, stub: Any, expected: Sequence[float], changes: dict[str, Any]
) -> None:
    before = served.forget_peak()
    answer = infer(served, infer_body(**changes))
    assert (answer.status, len(answer.error) < 500) == (400, True)
    binary = {**changes, "parameters": {"binary_data_size": 8}}
    top = infer_body(**binary).replace(b'"data": [0.0, 1.0], ', b"", 1)
    answer = infer(served, top + bytes(8), {"Inference-Header-Content-Length": str(len(top))})
    assert (answer.status, len(answer.error) < 500) == (400, True)
    for raw in (False, True):
        with pytest.raises(grpc.RpcError) as failure:
            stub(message_of(changes, raw=raw), timeout=PATIENCE)
        assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert len(failure.value.details()) < 500
    assert served.memory("VmHWM") - before < 32 * MIB
    assert served.is_good(expected)


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": [2**64, 4]},
        {"shape": [10**400]},
        {"shape": [2.0]},
        {"shape": ["2"]},
        {"shape": [True]},
        {"shape": None},
        {"shape": {"0": 2}},
        {"shape": [[2]]},
        {"name": None},
        {"name": 1},
        {"datatype": 1},
        {"data": None},
        {"data": [1.0]},
        {"data": [1.0, "2"]},
        {"data": [1.0, [2.0]]},
        {"data": {"0": 1.0}},
        {"data": [1.0, 10**400]},
        {"parameters": {"binary_data_size": -8}},
        {"parameters": {"binary_data_size": 2**62}},
        {"parameters": {"binary_data_size": True}},
        {"parameters": [1]},
        {"parameters": {"shared_memory_region": "x"}},
    ],
    ids=lambda changes: str(changes)[:40],
)
def test_an_input_of_odd_json_is_refused(served: Served, expected: Sequence[float], changes: dict[str, Any]) -> None:
    answer = infer(served, infer_body(**changes))
    assert (answer.status, len(answer.error) < 500) == (400, True)
    assert served.is_good(expected)


def test_a_good_request_over_grpc_has_the_same_scores(served: Served, stub: Any, expected: Sequence[float]) -> None:
    for raw in (False, True):
        answer = stub(message_of({}, raw=raw), timeout=PATIENCE)
        scores = (
            struct.unpack("<2d", answer.raw_output_contents[-1]) if raw else answer.outputs[-1].contents.fp64_contents
        )
        assert list(scores) == list(expected)


def test_bytes_that_are_no_grpc_end_their_connection(served: Served, stub: Any, expected: Sequence[float]) -> None:
    host, _, port = served.grpc.rpartition(":")
    for sent in (
        random.Random(0).randbytes(4000),
        post(rank_body()),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + random.Random(0).randbytes(4000),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([255, 255, 255, 1, 0, 0, 0, 0, 0]),
    ):
        with socket.create_connection((host, int(port)), timeout=PATIENCE) as client:
            with suppress(ConnectionError):
                client.sendall(sent)
            client.settimeout(1)
            everything(client)
        assert stub(message_of({}, raw=True), timeout=PATIENCE).model_name == "feed"
    assert served.is_good(expected)


# Clients that leave, and too many of them.


def test_clients_that_leave_while_their_request_waits_or_runs_disturb_no_other(
    served: Served, stub: Any, expected: Sequence[float]
) -> None:
    request = post(LARGE, "/v2/models/feed/infer", LARGE_HEADERS)
    for index in range(40):
        with ExitStack() as stack:
            clients = [stack.enter_context(served.connect()) for _ in range(4)]
            for client in clients:
                client.sendall(request)
            waiting = stub.future(message_of({}, raw=True), timeout=PATIENCE)
            time.sleep(index * 0.001)  # from before the server has read them to after it has answered
            waiting.cancel()
            for client in clients[::2]:  # a reset in place of an end
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if index % 8 == 0:
            assert served.is_good(expected)
    assert served.is_good(expected)
    ends = time.monotonic() + PATIENCE
    while served.metric("recap_queue_requests") and time.monotonic() < ends:
        time.sleep(0.05)
    assert served.metric("recap_queue_requests") == 0


def test_a_queue_at_twice_its_capacity_refuses_some_and_answers_the_others_right(
    served: Served, expected: Sequence[float]
) -> None:
    request = post(LARGE, "/v2/models/feed/infer", LARGE_HEADERS)
    refused, scores = [], set[bytes]()
    while not refused:
        with ExitStack() as stack:
            clients = [stack.enter_context(served.connect()) for _ in range(2 * QUEUE)]
            with ThreadPoolExecutor(len(clients)) as pool:
                list(pool.map(lambda client: client.sendall(request), clients))
            answers = [read_answer(client) for client in clients]
        for answer in answers:
            assert answer is not None
            if answer.status == 200:
                scores.add(json.dumps(json.loads(answer.body)["outputs"]).encode())
            else:
                assert (answer.status, answer.headers["retry-after"]) == (503, "1")
                assert re.match(r"\d+ requests wait already; try again later", answer.error)
                refused.append(answer)
    assert len(scores) == 1
    assert served.is_good(expected)


def test_a_full_queue_refuses_over_grpc_too(served: Served, stub: Any, expected: Sequence[float]) -> None:
    request = post(LARGE, "/v2/models/feed/infer", LARGE_HEADERS)
    codes = set()
    while grpc.StatusCode.RESOURCE_EXHAUSTED not in codes:
        with ExitStack() as stack:
            clients = [stack.enter_context(served.connect()) for _ in range(QUEUE)]
            with ThreadPoolExecutor(len(clients)) as pool:
                list(pool.map(lambda client: client.sendall(request), clients))
                calls = [stub.future(message_of({}, raw=True), timeout=PATIENCE) for _ in range(QUEUE)]
                codes |= {call.code() for call in calls}
            for client in clients:
                assert read_answer(client) is not None
        assert codes <= {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert served.is_good(expected)


def test_connections_beyond_the_limit_wait_until_idle_ones_are_closed(
    served: Served, expected: Sequence[float]
) -> None:
    with ExitStack() as stack:
        for _ in range(3 * CONNECTIONS):
            stack.enter_context(served.connect())
        assert served.is_good(expected)


def test_thousands_of_connections_leave_nothing_behind(served: Served, expected: Sequence[float]) -> None:
    def descriptors() -> int:
        return len(list(Path(f"/proc/{served.process.pid}/fd").iterdir()))

    before = descriptors()
    for index in range(2000):
        with served.connect() as client:
            if index % 2:
                client.sendall(b"POST /v1/rank HTTP/1.1\r\n")
    assert served.is_good(expected)
    ends = time.monotonic() + PATIENCE
    while descriptors() > before + 8 and time.monotonic() < ends:
        time.sleep(0.05)
    assert descriptors() <= before + 8
