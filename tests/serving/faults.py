"""A `recap serve` in a process of its own, and clients that send it raw bytes, so that nothing hides a fault."""

import json
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from threading import Thread
from typing import Any

import grpc
import numpy as np
import pyarrow as pa
from safetensors.numpy import load_file, save_file
from support import feed_table

import recap
from recap.serving.grpc.messages import SERVICE, message_class
from recap.storage import MANIFEST, atomic_directory

PATIENCE = 20.0
"""Seconds after which a server that does not answer is stuck."""
COLUMNS = ("age", "followers", "in_network", "hour", "language", "vector")
InferRequest = message_class("ModelInferRequest")
_LEAKS = re.compile(rb"Traceback|\.py\b|/(usr|home|tmp|work|proc|site-packages)/|granian|hyper/|starlette|tokio", re.I)
"""What no answer may hold: traces, paths, and the software of the server."""


@dataclass
class Answer:
    """An answer of HTTP/1.1."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def error(self) -> str:
        """The message of a failure, which has the form of all."""
        assert self.headers["content-type"] == "application/json", self
        content = json.loads(self.body)
        assert list(content) == ["error"], self
        return str(content["error"])

    def scores(self) -> list[float]:
        """Of `POST /v1/rank`, or of `infer` in JSON."""
        assert self.status == 200, self
        content = json.loads(self.body)
        found: list[float] = content["scores"] if "scores" in content else content["outputs"][-1]["data"]
        return found


@dataclass
class Served:
    """A server that runs."""

    process: "subprocess.Popen[str]"
    port: int
    grpc: str
    log: list[str] = field(default_factory=list)
    """The lines that it has printed."""

    def connect(self) -> socket.socket:
        """A connection to REST."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)

    def exchange(self, *parts: bytes) -> list[Answer]:
        """Send bytes on a connection of their own, and take all answers until the server ends it."""
        with self.connect() as client:
            with suppress(ConnectionError):  # it may refuse before it has read everything
                for part in parts:
                    client.sendall(part)
            return answers_of(everything(client))

    def ask(self, body: bytes, path: str = "/v1/rank", headers: Mapping[str, str] | None = None) -> Answer:
        """The answer to a request with a body."""
        (answer,) = self.exchange(post(body, path, {"Connection": "close", **(headers or {})}))
        return answer

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        """The answer to a request without a body."""
        (answer,) = self.exchange(head("GET", path, {"Connection": "close", **(headers or {})}))
        return answer

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        lines = self.get("/metrics").body.decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if re.match(rf"{name}[ {{]", line))

    def memory(self, which: str = "VmRSS") -> int:
        """Resident bytes; `VmHWM`: the most since the last `forget_peak`."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(rf"^{which}:\s+(\d+) kB", status, re.M)
        assert found is not None
        return int(found[1]) * 1024

    def forget_peak(self) -> int:
        """Measure the peak of memory from now on; return what is resident now."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")
        return self.memory()

    def is_good(self, expected: Sequence[float]) -> bool:
        """Whether it answers a good request, with the right scores, and nothing waits or has left a trace in its log.

        A refusal for want of a connection or a place in the queue is tried again, as clients do.
        """
        ends = time.monotonic() + PATIENCE
        while (answer := self.ask(rank_body())).status == 503 and time.monotonic() < ends:
            time.sleep(0.05)
        assert answer.scores() == list(expected)
        assert self.process.poll() is None
        assert not any("Traceback" in line or "panicked" in line for line in self.log), self.log
        return True


@contextmanager
def process(target: str, *settings: str) -> Iterator[Served]:
    """`recap serve TARGET` with REST and gRPC on free ports; `settings` such as `limits.body_mib=1`."""
    command = [sys.executable, "-m", "recap", "serve", target, "--port", "0", "--grpc-port", "0"]
    for setting in settings:
        command += ["--set", setting]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        try:
            assert running.stderr is not None
            log: list[str] = []
            for line in running.stderr:
                log.append(line)
                if found := re.search(r"serving on http://127\.0\.0\.1:(\d+), gRPC on (\S+);", line):
                    break
            assert found is not None, log
            served = Served(running, int(found[1]), found[2], log)
            reader = Thread(target=lambda: log.extend(iter(running.stderr.readline, "")))  # type: ignore[union-attr]
            reader.start()
            yield served
        finally:
            running.kill()
        reader.join()


def stopped(served: Served, number: int = signal.SIGTERM) -> int:
    """The exit code of a server after a signal."""
    served.process.send_signal(number)
    return served.process.wait(PATIENCE)


def head(method: str, path: str, headers: Mapping[str, str] | None = None) -> bytes:
    """The head of a request."""
    lines = [f"{method} {path} HTTP/1.1", "Host: x", *(f"{name}: {value}" for name, value in (headers or {}).items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def post(body: bytes, path: str = "/v1/rank", headers: Mapping[str, str] | None = None) -> bytes:
    """A request with a body."""
    added = {"Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})}
    return head("POST", path, added) + body


def chunked(
    parts: Iterable[bytes], path: str = "/v1/rank", headers: Mapping[str, str] | None = None
) -> Iterator[bytes]:
    """A request whose body comes in chunks, without its end."""
    added = {"Content-Type": "application/json", "Transfer-Encoding": "chunked", **(headers or {})}
    yield head("POST", path, added)
    for part in parts:
        yield b"%x\r\n%s\r\n" % (len(part), part)


def everything(client: socket.socket) -> bytes:
    """What arrives until the server ends the connection."""
    parts = []
    with suppress(ConnectionError):
        while part := client.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


def answers_of(data: bytes) -> list[Answer]:
    """The answers in bytes; none of them may tell anything of the server."""
    answers = []
    while data:
        top, end, rest = data.partition(b"\r\n\r\n")
        assert end, data
        first, *lines = top.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        size = int(headers.get("content-length", 0))
        assert "transfer-encoding" not in headers
        assert len(rest) >= size
        assert not _LEAKS.search(rest[:size]), data
        answers.append(Answer(int(first.split()[1]), headers, rest[:size]))
        data = rest[size:]
    return answers


def read_answer(client: socket.socket) -> Answer | None:
    """The next answer on a connection that stays open; None if the server ends it."""
    return next(iter(read_answers(client, 1)), None)


def read_answers(client: socket.socket, count: int) -> list[Answer]:
    """The next answers on a connection that stays open; fewer if the server ends it."""
    data, ends, complete = b"", 0, 0
    while complete < count:
        end = data.find(b"\r\n\r\n", ends)
        found = re.search(rb"content-length: (\d+)", data[ends:end], re.I) if end >= 0 else None
        if end >= 0 and len(data) >= end + 4 + (size := int(found[1]) if found else 0):
            ends, complete = end + 4 + size, complete + 1
        elif part := client.recv(1 << 16):
            data += part
        else:
            break
    assert len(data) == ends, data
    return answers_of(data)


def rows(count: int = 2) -> list[dict[str, Any]]:
    """Candidates with all columns."""
    found: list[dict[str, Any]] = feed_table(count).select(list(COLUMNS)).to_pylist()
    return [{**row, "age": float(index), "language": "en"} for index, row in enumerate(found)]


def rank_body(count: int = 2) -> bytes:
    """A good request of `POST /v1/rank`."""
    return json.dumps({"candidates": rows(count)}).encode()


def tensors(count: int = 2) -> list[dict[str, Any]]:
    """The same candidates as inputs of the Open Inference Protocol."""
    kinds = {"hour": "INT64", "language": "BYTES", "in_network": "BOOL"}
    table = rows(count)
    return [
        {
            "name": name,
            "datatype": kinds.get(name, "FP32"),
            "shape": [count, 4] if name == "vector" else [count],
            "data": [row[name] for row in table],
        }
        for name in COLUMNS
    ]


def large_request(count: int) -> tuple[bytes, dict[str, str]]:
    """A request of `infer` with many candidates, fast to decode, and its headers."""
    random = np.random.default_rng(0)
    values: dict[str, tuple[str, np.ndarray[Any, Any]]] = {
        "age": ("FP32", random.normal(size=count).astype(np.float32)),
        "followers": ("FP32", random.normal(size=count).astype(np.float32)),
        "in_network": ("BOOL", np.ones(count, np.bool_)),
        "hour": ("INT64", random.integers(0, 24, count)),
        "vector": ("FP32", random.normal(size=(count, 4)).astype(np.float32)),
    }
    inputs: list[dict[str, Any]] = [
        {
            "name": name,
            "datatype": datatype,
            "shape": array.shape,
            "parameters": {"binary_data_size": array.nbytes},
        }
        for name, (datatype, array) in values.items()
    ]
    inputs.append({"name": "language", "datatype": "BYTES", "shape": [1], "data": ["en"]})
    top = json.dumps({"inputs": inputs, "outputs": [{"name": "score"}]}).encode()
    body = top + b"".join(array.tobytes() for _, array in values.values())
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(top))}
    return body, headers


def scores_of(model: Path) -> list[float]:
    """The scores of `rank_body` by a model directory."""
    found: list[float] = recap.Scorer.open(model)(pa.Table.from_pylist(rows()))["score"].to_pylist()
    return found


def with_weights(model: Path, target: Path, change: Callable[[Any], Any]) -> Path:
    """A copy of a model directory with other weights of fractions, and their checksums."""
    with atomic_directory(target) as folder:
        shutil.copytree(model, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MANIFEST, "golden.json"))
        weights = load_file(folder / "weights.safetensors")
        changed = {name: change(values) if values.dtype.kind == "f" else values for name, values in weights.items()}
        save_file(changed, folder / "weights.safetensors")
    return target


def infer_stub(channel: grpc.Channel) -> Any:
    """`ModelInfer` over gRPC."""
    return channel.unary_unary(
        f"/{SERVICE}/ModelInfer", InferRequest.SerializeToString, message_class("ModelInferResponse").FromString
    )


def message_of(changes: Mapping[str, Any], *, raw: bool) -> Any:
    """The good request over gRPC, with `changes` to its first input."""
    message = InferRequest(model_name="feed")
    fields = {"FP32": "fp32_contents", "INT64": "int64_contents", "BYTES": "bytes_contents", "BOOL": "bool_contents"}
    formats = {"FP32": "<f", "INT64": "<q", "BOOL": "<?"}
    for index, tensor in enumerate(tensors()):
        given = {**tensor, **changes} if index == 0 else tensor
        added = message.inputs.add(name=given["name"], datatype=given["datatype"], shape=given["shape"])
        values = list(chain(*tensor["data"])) if tensor["name"] == "vector" else tensor["data"]
        if tensor["datatype"] == "BYTES":
            values = [value.encode() for value in values]
        if not raw:
            getattr(added.contents, fields[tensor["datatype"]]).extend(values)
        elif tensor["datatype"] == "BYTES":
            message.raw_input_contents.append(b"".join(struct.pack("<I", len(value)) + value for value in values))
        else:
            message.raw_input_contents.append(b"".join(struct.pack(formats[tensor["datatype"]], v) for v in values))
    return message
