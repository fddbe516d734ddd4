"""A server in a process of its own, and a request to it with its scores."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from serving.running import small_model
from support import feed_table

import recap

_ROWS = 40


@dataclass(frozen=True)
class Served:
    """A running `recap serve`, and what it must answer."""

    model: Path
    http: str
    grpc: str
    file: Path
    """The inputs of a request, for programs; the hour is a column of the user."""
    inputs: Mapping[str, npt.NDArray[Any]]
    scores: Mapping[str, list[float]]
    """Output → its values for `inputs`, as recap.Scorer has them."""


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    model = small_model(folder)
    inputs, table = _request()
    np.savez(folder / "request.npz", **inputs)
    scored = recap.Scorer.open(model)(table)
    scores = {name: scored[name].to_pylist() for name in ("like", "share", "score")}
    command = [sys.executable, "-m", "recap", "serve", f"feed={model}", "--port", "0", "--grpc-port", "0"]
    with (folder / "log").open("w+") as log:
        server = subprocess.Popen(command, stderr=log, cwd=folder)
        try:
            http, grpc = _addresses(server, folder / "log")
            yield Served(model, http, grpc, folder / "request.npz", inputs, scores)
            server.send_signal(signal.SIGTERM)
            assert server.wait(timeout=60) == 0, (folder / "log").read_text()
        finally:
            server.kill()
            server.wait()


def _request() -> tuple[dict[str, npt.NDArray[Any]], pa.Table]:
    """The inputs of a request, and its rows as a table."""
    table = feed_table(_ROWS, seed=5)
    inputs: dict[str, npt.NDArray[Any]] = {
        name: np.nan_to_num(table[name].to_numpy().astype(np.float32), nan=1.0) for name in ("age", "followers")
    }
    inputs["in_network"] = table["in_network"].to_numpy()
    inputs["hour"] = np.array([7])
    inputs["language"] = table["language"].to_numpy().astype(str)
    inputs["vector"] = np.stack(table["vector"].to_numpy()).astype(np.float32)
    columns = {name: pa.array(np.broadcast_to(values, (_ROWS,))) for name, values in inputs.items() if values.ndim == 1}
    vector = pa.FixedSizeListArray.from_arrays(inputs["vector"].ravel(), inputs["vector"].shape[1])
    return inputs, pa.table(columns | {"vector": vector})


def _addresses(server: "subprocess.Popen[bytes]", log: Path) -> tuple[str, str]:
    """The addresses that the server prints once it is ready."""
    while server.poll() is None:
        if found := re.search(r"serving on http://(\S+), gRPC on (\S+);", log.read_text()):
            return found[1], found[2]
        try:
            server.wait(timeout=0.05)
        except subprocess.TimeoutExpired:
            continue
    raise AssertionError(log.read_text())


def run_program(name: str, *arguments: str | Path, python: str = sys.executable) -> str:
    """What a program of `programs/` prints; a process of its own, since packages of the protocol exclude each other."""
    program = Path(__file__).parent / "programs" / name
    command = [python, str(program), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ)
    assert done.returncode == 0, done.stderr
    return done.stdout
