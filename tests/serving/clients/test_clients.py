"""Clients of the Open Inference Protocol that others wrote, each in a process of its own, against `recap serve`."""

import json
import os
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from serving.clients.conftest import Served, run_program

pytestmark = pytest.mark.slow

INPUTS = [
    {"name": "age", "datatype": "FP32", "shape": [-1]},
    {"name": "followers", "datatype": "FP32", "shape": [-1]},
    {"name": "in_network", "datatype": "FP32", "shape": [-1]},
    {"name": "hour", "datatype": "INT64", "shape": [-1]},
    {"name": "language", "datatype": "BYTES", "shape": [-1]},
    {"name": "vector", "datatype": "FP32", "shape": [-1, 4]},
]
OUTPUTS = [
    {"name": "like", "datatype": "FP32", "shape": [-1]},
    {"name": "share", "datatype": "FP32", "shape": [-1]},
    {"name": "score", "datatype": "FP64", "shape": [-1]},
]


def answers(served: Served, name: str, *addresses: str, calls: int, **options: Any) -> dict[str, Any]:
    """What a program prints, after its scores were compared: bit for bit those of recap.Scorer."""
    found: dict[str, Any] = json.loads(run_program(name, *addresses, served.file, **options))
    scores = found.pop("scores")
    assert len(scores) == calls
    for call, outputs in scores.items():
        assert rounded(outputs) == rounded(served.scores), call
    return found


def rounded(outputs: Mapping[str, list[float]]) -> dict[str, Any]:
    """Outputs in their own precision: JSON has the fewest digits that name a float32, which clients read as float64."""
    return {
        name: np.array(values, np.float64 if name == "score" else np.float32).tolist()
        for name, values in outputs.items()
    }


def test_tritonclient_over_http(served: Served) -> None:
    found = answers(served, "triton_http.py", served.http, calls=20)
    errors = found.pop("errors")
    version = served.model.name
    metadata = {"name": "feed", "versions": [version], "platform": "recap", "inputs": INPUTS, "outputs": OUTPUTS}
    assert found.pop("server")["extensions"] == ["binary_tensor_data"]
    assert found == {
        "live": True,
        "ready": True,
        "model ready": [True, False],
        "metadata": metadata,
        "id": "r1",
        "one output": ["score"],
    }
    assert {name: status for name, (status, _) in errors.items()} == {
        "model": "404", "version": "404", "output": "400", "missing": "400", "shape": "400", "classification": "400",
    }  # fmt: skip
    assert "'age': is missing" in errors["missing"][1]


def test_tritonclient_over_grpc(served: Served) -> None:
    found = answers(served, "triton_grpc.py", served.grpc, calls=11)
    metadata, errors = found["metadata"], found["errors"]
    assert (found["live"], found["ready"], found["model ready"]) == (True, True, [True, "StatusCode.NOT_FOUND"])
    assert (found["server"]["name"], found["id"], found["one output"]) == ("recap", "r1", ["score"])
    for tensors, expected in ((metadata["inputs"], INPUTS), (metadata["outputs"], OUTPUTS)):
        assert [tensor | {"shape": [int(size) for size in tensor["shape"]]} for tensor in tensors] == expected
    assert {name: status.removeprefix("StatusCode.") for name, (status, _) in errors.items()} == {
        "model": "NOT_FOUND",
        "version": "NOT_FOUND",
        "output": "INVALID_ARGUMENT",
        "missing": "INVALID_ARGUMENT",
        "classification": "INVALID_ARGUMENT",
        "late": "DEADLINE_EXCEEDED",
        "statistics": "UNIMPLEMENTED",
    }
    assert "'age': is missing" in errors["missing"][1]


def test_open_inference_over_rest(served: Served) -> None:
    found = answers(served, "open_inference_rest.py", served.http, calls=1)
    version = served.model.name
    assert found["versioned"] == {"score": served.scores["score"]}
    assert (found["id"], found["model"]) == ("r1", ["feed", version, version])
    assert (found["metadata"]["inputs"], found["metadata"]["outputs"]) == (INPUTS, OUTPUTS)
    assert found["server"]["name"] == "recap"
    assert {name: status for name, (status, _) in found["errors"].items()} == {
        "model": 404, "metadata": 404, "inputs": 400,
    }  # fmt: skip
    assert all(list(body) == ["error"] for _, body in found["errors"].values())


def test_open_inference_and_health_over_grpc(served: Served) -> None:
    found = answers(served, "open_inference_grpc.py", served.grpc, calls=2)
    assert {name: status for name, (status, _) in found.pop("errors").items()} == dict.fromkeys(
        ("model", "metadata", "health"), "NOT_FOUND"
    )
    assert found == {"id": "r1", "live": True, "ready": True, "model ready": True, "health": ["SERVING"] * 3}


def test_kserve_over_rest_and_grpc(served: Served) -> None:
    python = os.environ.get("RECAP_KSERVE_PYTHON", sys.executable if find_spec("kserve") else "")
    if not python:
        pytest.skip(
            "kserve excludes versions that recap is tested with; RECAP_KSERVE_PYTHON names a Python that has it"
        )
    found = answers(served, "kserve_client.py", served.http, served.grpc, calls=8, python=python)
    assert found == {"probes": [True] * 6, "errors": {"REST": 404, "gRPC": "NOT_FOUND"}}
