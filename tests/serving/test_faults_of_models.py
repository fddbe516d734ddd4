"""Faults of models and of the machine: bad versions, reloads and signals under load, and memory after many requests."""

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Event
from typing import Any

import grpc
import numpy as np
import pytest
from serving.faults import (
    PATIENCE,
    Answer,
    Served,
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
    with_weights,
)
from serving.running import small_model

from recap.serving.models.golden import GOLDEN, write_golden
from recap.storage import MANIFEST, add_file

pytestmark = pytest.mark.slow

MIB = 2**20
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with golden predictions."""
    folder = tmp_path_factory.mktemp("model")
    trained = small_model(folder)
    write_golden(trained, [str(folder / "validation" / "*.parquet")])
    return trained


@pytest.fixture(scope="module")
def other(model: Path) -> Path:
    """A model with other scores."""
    return with_weights(model, model.parent / "other", lambda values: values * np.asarray(1.25, values.dtype))


@pytest.fixture(scope="module")
def root(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of versions; tests add theirs, with increasing numbers."""
    root = tmp_path_factory.mktemp("feed")
    (root / "v1").symlink_to(model)
    return root


@pytest.fixture(scope="module")
def served(root: Path) -> Iterator[Served]:
    """A server that looks for new versions all the time."""
    with process(f"feed={root}", "reload.every_seconds=0.05", "batching.threads=1", "grace_seconds=10") as served:
        yield served


def add_version(root: Path, model: Path) -> str:
    """Link a model as the newest version; return its name."""
    name = f"v{len(list(root.iterdir())) + 1}"
    (root / name).symlink_to(model)
    return name


def version_of(answer: Answer) -> str:
    return str(json.loads(answer.body)["version"])


def wait_for_line(served: Served, pattern: str) -> str:
    """The line of the log that the pattern finds."""
    ends = time.monotonic() + PATIENCE
    while time.monotonic() < ends:
        for line in list(served.log):
            if re.search(pattern, line):
                return line
        time.sleep(0.02)
    raise AssertionError(f"no line with {pattern} in {served.log}")


def truncate(version: Path) -> None:
    weights = version / "weights.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)


def flip_a_bit(version: Path) -> None:
    content = bytearray((version / "weights.safetensors").read_bytes())
    content[-1] ^= 1
    (version / "weights.safetensors").write_bytes(content)


def write_noise(version: Path) -> None:
    (version / MANIFEST).write_bytes(random.Random(0).randbytes(1000))


def remove_weights(version: Path) -> None:
    (version / "weights.safetensors").unlink()


def climb(version: Path) -> None:
    """Let the manifest name a file outside the directory."""
    manifest = json.loads((version / MANIFEST).read_text())
    manifest["sha256"]["../../secret"] = "0" * 64
    (version / MANIFEST).write_text(json.dumps(manifest))


def predict_otherwise(version: Path) -> None:
    content = json.loads((version / GOLDEN).read_text())
    content["predictions"]["like"][0] += 0.5
    add_file(version, GOLDEN, json.dumps(content))


def change(weights: Callable[[Any], Any]) -> Callable[[Path], None]:
    def harm(version: Path) -> None:
        with_weights(version, version.parent / "changed", weights)
        shutil.rmtree(version)
        (version.parent / "changed").rename(version)

    return harm


@pytest.mark.parametrize(
    ("harm", "text"),
    [
        pytest.param(truncate, "weights.safetensors", id="truncated weights"),
        pytest.param(flip_a_bit, "weights.safetensors", id="a wrong checksum"),
        pytest.param(remove_weights, "weights.safetensors", id="no weights"),
        pytest.param(write_noise, "manifest.json", id="a manifest of noise"),
        pytest.param(climb, "manifest.json", id="a manifest that climbs"),
        pytest.param(predict_otherwise, "row 0: like is", id="other golden predictions"),
        pytest.param(change(lambda values: np.full_like(values, np.nan)), "NaN or infinite", id="NaN"),
        pytest.param(
            change(lambda values: np.sign(values) * values.dtype.type(1e38)),
            "cannot score a request .*not finite",
            id="a failing warm-up",
        ),
        pytest.param(change(lambda values: values[:1]), "weights.safetensors|shape", id="weights of another shape"),
    ],
)
def test_a_bad_version_is_refused_and_the_old_one_answers(
    served: Served, model: Path, root: Path, tmp_path: Path, harm: Callable[[Path], None], text: str
) -> None:
    shutil.copytree(model, tmp_path / "bad")
    harm(tmp_path / "bad")
    before = version_of(served.ask(rank_body()))
    name = add_version(root, tmp_path / "bad")
    line = wait_for_line(served, f"version {name} is refused")
    assert re.search(f"version {before} stays: .*({text})", line), line
    assert version_of(served.ask(rank_body())) == before
    assert served.is_good(scores_of(model))


def test_a_server_whose_only_version_is_bad_ends_with_2_and_says_why(model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "bad")
    change(lambda values: np.full_like(values, np.nan))(tmp_path / "bad")
    command = [sys.executable, "-m", "recap", "serve", f"feed={tmp_path / 'bad'}", "--port", "0"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert "NaN or infinite" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_reloads_under_load_fail_no_request_and_scores_are_those_of_the_version(
    served: Served, model: Path, other: Path, root: Path
) -> None:
    expected = {True: scores_of(model), False: scores_of(other)}
    assert expected[True] != expected[False]
    is_first = {version_of(served.ask(rank_body())): True}
    done = Event()

    def load() -> list[tuple[str, list[float]]]:
        seen = []
        with served.connect() as client:
            while not done.is_set():
                client.sendall(post(rank_body()))
                answer = read_answer(client)
                assert answer is not None
                seen.append((version_of(answer), answer.scores()))
        return seen

    with ThreadPoolExecutor(4) as pool:
        loads = [pool.submit(load) for _ in range(4)]
        try:
            for number in range(6):
                name = add_version(root, other if number % 2 == 0 else model)
                is_first[name] = number % 2 == 1
                wait_for_line(served, f"version {name} is ready")
        finally:
            done.set()
        seen = [entry for load in loads for entry in load.result()]
    assert len({version for version, _ in seen}) >= 6
    assert all(scores == expected[is_first[version]] for version, scores in seen)
    assert served.is_good(expected[is_first[name]])


def test_memory_stays_flat_over_thousands_of_requests(served: Served, model: Path) -> None:
    requests = post(rank_body()) * 7 + post(b"{") + head("GET", "/v2/models/feed") + head("GET", "/missing")

    def ask(count: int) -> None:
        with served.connect() as client:
            for _ in range(count // 10):
                client.sendall(requests)
                assert len(read_answers(client, 10)) == 10

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, [250] * 4))
        before = served.memory()
        list(pool.map(ask, [500] * 4))
    assert served.memory() - before < 8 * MIB


# Signals; the last tests of the module, as each ends a server.


def test_sigterm_under_load_answers_what_was_accepted_and_ends_with_0_although_clients_are_stuck(
    model: Path, served: Served
) -> None:
    expected = scores_of(model)
    large = post(large_request(9000)[0], "/v2/models/feed/infer", large_request(9000)[1])
    body = rank_body()
    started = Event()

    def load() -> list[Answer]:
        """Requests one after the other until the server ends the connection; no answer is cut off."""
        answers = []
        with served.connect() as client, suppress(ConnectionError):
            while (answer := _answer(client, post(body))) is not None:
                answers.append(answer)
                started.set()
        return answers

    with process(f"feed={model}", "batching.threads=1", "grace_seconds=4") as served, ExitStack() as stack:
        accepted = [stack.enter_context(served.connect()) for _ in range(4)]
        stuck = [stack.enter_context(served.connect()) for _ in range(4)]
        for client in [*accepted, *stuck[:2]]:
            client.sendall(post(body, headers={"Expect": "100-continue"}).removesuffix(body))
            assert client.recv(100).startswith(b"HTTP/1.1 100 ")  # the server waits for the body
        stuck[2].sendall(b"POST /v1/rank HTTP/1.1\r\n")
        running = [stack.enter_context(served.connect()) for _ in range(6)]
        call = infer_stub(stack.enter_context(grpc.insecure_channel(served.grpc)))
        call(message_of({}, raw=True), timeout=PATIENCE)
        with ThreadPoolExecutor(4) as pool:
            loads = [pool.submit(load) for _ in range(4)]
            assert started.wait(PATIENCE)
            for client in running:
                client.sendall(large)
            assert read_answer(running[0]) is not None  # the others wait or run
            calls = [call.future(message_of({}, raw=True), timeout=PATIENCE) for _ in range(8)]
            served.process.send_signal(signal.SIGTERM)
            wait_for_line(served, "stopping")
            for client in accepted:
                client.sendall(body)
                answer = read_answer(client)
                assert answer is not None
                assert answer.scores() == expected
            for finished in loads:
                for answer in finished.result():
                    assert answer.scores() == expected
        for client in running[1:]:
            with suppress(ConnectionError):
                answer = read_answer(client)
                assert answer is None or answer.status == 200
        assert {future.code() for future in calls} <= {
            grpc.StatusCode.OK,
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.CANCELLED,
        }
        with pytest.raises(ConnectionError):
            served.connect()
        assert served.process.wait(PATIENCE) == 0
    assert not any("Traceback" in line for line in served.log), served.log


def _answer(client: socket.socket, request: bytes) -> Answer | None:
    client.sendall(request)
    return read_answer(client)


def test_a_second_sigterm_ends_the_server_at_once(served: Served) -> None:
    with served.connect() as client:
        client.sendall(post(rank_body(), headers={"Expect": "100-continue"})[:-4])
        client.recv(100)
        served.process.send_signal(signal.SIGTERM)
        wait_for_line(served, "stopping")
        assert stopped(served) == 128 + signal.SIGTERM
        assert everything(client) == b""
    assert not any("Traceback" in line for line in served.log), served.log
