"""Another server of the protocol with the same model: the same requests have the same results, where it says so."""

import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from serving.clients.conftest import Served

from recap.serving.grpc.messages import message_class

pytestmark = pytest.mark.slow

DATATYPES = {"f": "FP32", "i": "INT64", "b": "BOOL", "U": "BYTES"}
CONTENTS = {"f": "fp32_contents", "i": "int64_contents", "b": "bool_contents", "U": "bytes_contents"}
Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def peer(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The addresses of aiSSEMBLE's server, for REST and gRPC."""
    pytest.importorskip("aissemble_open_inference_protocol_fastapi")
    pytest.importorskip("aissemble_open_inference_protocol_grpc")
    with socket.socket() as first, socket.socket() as second:
        for bound in (first, second):
            bound.bind(("127.0.0.1", 0))
        ports = [str(bound.getsockname()[1]) for bound in (first, second)]
    program = Path(__file__).parent / "programs" / "peer.py"
    folder = tmp_path_factory.mktemp("peer")
    with (folder / "log").open("w+") as log:
        process = subprocess.Popen(
            [sys.executable, str(program), str(served.model), *ports], stdout=log, stderr=log, cwd=folder
        )
        try:
            while True:
                assert process.poll() is None, (folder / "log").read_text()
                try:
                    httpx.get(f"http://127.0.0.1:{ports[0]}/v2/health/live")
                    break
                except httpx.TransportError:
                    time.sleep(0.05)
            yield f"127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[1]}"
        finally:
            process.kill()
            process.wait()


def request_of(served: Served) -> dict[str, Any]:
    """The request as JSON."""
    inputs = [
        {
            "name": name,
            "datatype": DATATYPES[values.dtype.kind],
            "shape": list(values.shape),
            "data": values.ravel().tolist(),
        }
        for name, values in served.inputs.items()
    ]
    return {"id": "r1", "inputs": inputs}


def outputs_of(answer: httpx.Response) -> list[list[Any]]:
    """The outputs, values in their own precision: a float32 has several texts in JSON."""
    kinds = {"FP32": np.float32, "FP64": np.float64}
    return [
        (
            tensor["name"],
            tensor["datatype"],
            tensor["shape"],
            np.array(tensor["data"], kinds[tensor["datatype"]]).tolist(),
        )
        for tensor in answer.json()["outputs"]
    ]


@pytest.mark.parametrize(
    "change",
    [
        lambda request: None,
        lambda request: request.pop("id"),
        lambda request: request.update(outputs=[{"name": "score"}]),
        lambda request: request.update(parameters={"anything": 1}),
        lambda request: request["inputs"].reverse(),
        lambda request: request["inputs"][5].update(
            data=[request["inputs"][5]["data"][start : start + 4] for start in range(0, 160, 4)]
        ),
    ],
    ids=["whole", "without id", "one output", "parameters", "other order", "nested data"],
)
def test_both_answer_the_same_outputs(served: Served, peer: tuple[str, str], change: Change) -> None:
    request = request_of(served)
    change(request)
    ours, theirs = (
        httpx.post(f"http://{address}/v2/models/feed/infer", json=request) for address in (served.http, peer[0])
    )
    assert (ours.status_code, theirs.status_code) == (200, 200), theirs.text
    assert ours.headers["content-type"] == theirs.headers["content-type"] == "application/json"
    assert outputs_of(ours) == outputs_of(theirs)
    assert ours.json()["model_name"] == theirs.json()["model_name"]


@pytest.mark.parametrize(
    "change",
    [
        lambda request: request.pop("inputs"),
        lambda request: request.update(inputs=[]),
        lambda request: request.update(inputs={}),
        lambda request: request["inputs"][0].pop("name"),
        lambda request: request["inputs"][0].pop("shape"),
        lambda request: request["inputs"][0].pop("data"),
        lambda request: request["inputs"][0].update(datatype="FP8"),
        lambda request: request["inputs"][0].update(shape=["x"]),
        lambda request: request["inputs"][0]["data"].pop(),
        lambda request: request["inputs"][0]["data"].append("x"),
        lambda request: request["inputs"][3]["data"].__setitem__(0, 1.5),
    ],
    ids=[
        "no inputs", "empty", "inputs no list", "name", "shape", "data", "datatype", "shape of text", "short", "text",
        "fraction",
    ],
)  # fmt: skip
def test_both_refuse_the_same_requests(served: Served, peer: tuple[str, str], change: Change) -> None:
    request = request_of(served)
    change(request)
    ours, theirs = (
        httpx.post(f"http://{address}/v2/models/feed/infer", json=request) for address in (served.http, peer[0])
    )
    assert 400 <= theirs.status_code < 500
    assert ours.status_code == 400
    assert list(ours.json()) == ["error"]


def test_both_describe_themselves_in_the_same_form(served: Served, peer: tuple[str, str]) -> None:
    for path in ("", "/models/feed", "/models/feed/ready", "/health/live", "/health/ready", "/nothing"):
        ours, theirs = (httpx.get(f"http://{address}/v2{path}") for address in (served.http, peer[0]))
        assert ours.status_code == theirs.status_code, path
        if ours.status_code == 200 and path != "/health/ready":  # the other one says "live" there
            assert ours.json().keys() == theirs.json().keys(), path


def test_both_answer_the_same_over_grpc(served: Served, peer: tuple[str, str]) -> None:
    message = message_class("ModelInferRequest")(model_name="feed", id="r1")
    for name, values in served.inputs.items():
        tensor = message.inputs.add(name=name, datatype=DATATYPES[values.dtype.kind], shape=values.shape)
        flat = [value.encode() if isinstance(value, str) else value for value in values.ravel().tolist()]
        getattr(tensor.contents, CONTENTS[values.dtype.kind]).extend(flat)
    # The other one spells its service differently than the protocol.
    services = ((served.grpc, "GRPCInferenceService"), (peer[1], "GrpcInferenceService"))

    def call(address: str, service: str, method: str, sent: Any) -> Any:
        with grpc.insecure_channel(address) as channel:
            answer = message_class(f"{method}Response").FromString
            encode = type(sent).SerializeToString
            return channel.unary_unary(f"/inference.{service}/{method}", encode, answer)(sent, timeout=20)

    ours, theirs = (call(*service, "ModelInfer", message) for service in services)
    for tensor in theirs.outputs:
        tensor.datatype = tensor.datatype.removeprefix("Datatype.")  # it sends the name of its own enum
    assert ours.outputs == theirs.outputs
    assert ours.model_name == theirs.model_name
    for method, sent in (("ServerLive", {}), ("ServerReady", {}), ("ModelReady", {"name": "feed"})):
        ours, theirs = (call(*service, method, message_class(f"{method}Request")(**sent)) for service in services)
        assert ours == theirs
    message.inputs[0].contents.fp32_contents.pop()
    for service in services:
        with pytest.raises(grpc.RpcError) as error:
            call(*service, "ModelInfer", message)
        assert re.search("INVALID_ARGUMENT", str(error.value))
