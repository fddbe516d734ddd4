"""The cost of reading besides speed: memory for any amount of data, time to resume, slowdown of training, data servers.

python benchmarks/reading.py [memory] [resume] [overlap] [servers]

Large data sets are a few files, hard-linked many times under different names.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from data import DENSE_FILES, DENSE_ROWS, FEATURES, TASKS, dense, write_dense

from recap.config.file.load import config_of, dump_config
from recap.config.recap import JobMode
from recap.data.batch import Batch
from recap.data.open import open_stream
from recap.data.tools.convert import convert_files
from recap.model.directory import build_ranker
from recap.model.objective.losses import MultiTaskLoss
from recap.training.optimizer.scheduled import ScheduledOptimizer

LONG_ROWS, LONG_FILES = 10_000_000, 10
"""Rows per file, and files, of a table with a number, a code and a label."""
WIDE_ROWS, WIDE_COLUMNS = 200_000, 200
"""Of the table that data servers read."""


def main() -> None:
    """Run the requested parts, by default all."""
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", default=["memory", "resume", "overlap", "servers"])
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        read_in_child(*options.child)
        return
    for part in options.parts:
        with tempfile.TemporaryDirectory() as made:
            {"memory": memory, "resume": resume, "overlap": overlap, "servers": servers}[part](Path(made))


def memory(folder: Path) -> None:
    """Peak resident memory of a process that reads the published layout once, at 1, 10 and 100 times the data."""
    write_dense(folder)
    for kind in ("packed", "tfrecord"):
        for times in (1, 10, 100):
            linked = folder / "linked" / kind / str(times)
            link(folder / "dense" / kind, linked / kind, times)
            report = child("memory", kind, linked)
            print(f"{kind:<8} {DENSE_ROWS * DENSE_FILES * times:>9,} rows: {report}", flush=True)


def resume(folder: Path) -> None:
    """Seconds to the first batch from the middle of 100 million rows, in a separate process, imports included."""
    random = np.random.default_rng(0)
    table = pa.table(
        {
            "number0": random.normal(size=LONG_ROWS).astype(np.float32).round(3),
            "code0": random.integers(0, 1000, LONG_ROWS).astype(np.int32),
            "label0": (random.random(LONG_ROWS) < 0.1).astype(np.int8),
        }
    )
    (folder / "parquet").mkdir()
    pq.write_table(table, folder / "parquet" / "part.parquet", row_group_size=65_536)
    convert_files([str(folder / "parquet" / "*.parquet")], folder / "csv", "csv")
    for kind in ("parquet", "csv"):
        link(folder / kind, folder / "linked" / kind, LONG_FILES)
        for attempt in ("first start", "resumed"):
            report = child("resume", kind, folder / "linked")
            print(f"{kind:<8} {LONG_ROWS * LONG_FILES:,} rows, {attempt:<11}: {report}", flush=True)


def overlap(folder: Path) -> None:
    """Steps of the production shape, alternating between a batch in memory and batches that are read."""
    write_dense(folder)
    values = FEATURES["dense"] | {"train_data": dense(folder, "packed") | {"global_batch_size": 1024}}
    values["train_data"].pop("layout")
    values["features"] = values["features"] | {
        "continuous": [{"name": "continuous", "length": 6000, "first": 2117}],
        "binary": [{"name": "binary", "length": 512, "first": 59}],
        "discrete": {},
    }
    block = {"output_size": 1024, "aggregation_size": 1024, "input_layer_norm": True}
    tower = {"tower": {"kind": "mlp", "layer_sizes": [256, 128], "batch_norm": {"affine": False}}}
    values["model"] = {
        "backbone": {
            "kind": "mask_net",
            "use_parallel": True,
            "mask_blocks": [block] * 4,
            "mlp": {"layer_sizes": [2048], "final_layer_activation": True},
        },
        "sharing": {"kind": "share_all"},
        "tasks": dict.fromkeys(TASKS[:10], tower),
    }
    values["train_data"]["tasks"] = {task: {} for task in TASKS[:10]}
    config = config_of(values)
    ranker = build_ranker(config, {})
    optimizer, loss = ScheduledOptimizer(config, ranker), MultiTaskLoss([1.0] * 10)
    ranker.train()
    print(f"production shape, {sum(weights.numel() for weights in ranker.parameters()):,} parameters, batch 1024")

    def step(batch: Batch) -> None:
        optimizer.zero_grad()
        assert batch.labels is not None
        assert batch.weights is not None
        loss(ranker(batch).logits, batch.labels, batch.weights).mean().backward()
        optimizer.step(1)

    seconds: dict[str, list[float]] = {"memory": [], "read": []}
    with closing(iter(open_stream(config, {}, JobMode.TRAIN))) as batches:
        held = next(batches)
        step(held)
        for origin in ["memory", "read", "read", "memory"] * 4:  # so that drift affects both equally
            time.sleep(1)  # until the next batches are read ahead
            for _ in range(5):
                started = time.perf_counter()
                step(held if origin == "memory" else next(batches))
                seconds[origin].append(time.perf_counter() - started)
    means = {origin: float(np.mean(steps)) for origin, steps in seconds.items()}
    for origin, duration in means.items():
        print(f"  {origin:<8}: {duration:.3f} s per step, {1024 / duration:,.0f} examples/s")
    medians = {origin: float(np.median(steps)) for origin, steps in seconds.items()}
    slower = [averages["read"] / averages["memory"] - 1 for averages in (means, medians)]
    print(f"  reading slows training by {slower[0]:.1%} (by medians {slower[1]:.1%}; target: at most 3%)")


def servers(folder: Path) -> None:
    """Rows per second of an epoch of wide rows, read by threads, and by one and two servers on this machine."""
    random = np.random.default_rng(0)
    columns = {f"number{index}": random.normal(size=WIDE_ROWS).astype(np.float32) for index in range(WIDE_COLUMNS)}
    columns["label0"] = (random.random(WIDE_ROWS) < 0.1).astype(np.int8)
    pq.write_table(pa.table(columns), folder / "part.parquet", row_group_size=8192)
    data: dict[str, Any] = {"source": {"inputs": str(folder / "*.parquet")}, "tasks": {"label0": {}}, "num_epochs": 1}
    model = FEATURES["table"]["model"] | {"tasks": {"label0": FEATURES["table"]["model"]["tasks"]["label0"]}}
    features = {"continuous": [name for name in columns if name != "label0"]}
    values = FEATURES["table"] | {"features": features, "model": model, "train_data": data}
    (folder / "ranker.yaml").write_text(dump_config(config_of(values)))
    command = [sys.executable, "-m", "recap", "data", "serve", str(folder / "ranker.yaml"), "--port", "0"]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        addresses = []
        for server in started:
            assert server.stdout is not None
            serving = next(line for line in server.stdout if line.startswith("serving "))
            addresses.append(serving.rpartition(" at ")[2].strip())
        choices: dict[str, dict[str, Any]] = {"threads": {"kind": "threads"}}
        for count in (1, 2):
            choices[f"{count} servers"] = {"kind": "service", "address": addresses[:count]}
        for name, readers in [*choices.items(), *reversed(choices.items())]:
            values["train_data"] = values["train_data"] | {"readers": readers}
            stream = open_stream(config_of(values), {}, JobMode.TRAIN)
            before = time.perf_counter()
            rows = sum(map(len, stream))
            print(f"{name:<9}: {rows / (time.perf_counter() - before):>9,.0f} rows/s", flush=True)
    finally:
        for server in started:
            server.terminate()
            server.wait()


def link(source: Path, target: Path, times: int) -> None:
    """Link every data file of a folder `times` times, under different names."""
    target.mkdir(parents=True)
    for file in source.iterdir():
        for number in range(times if file.name.startswith("part") else 1):
            name = f"part-{number}-{file.name}" if file.name.startswith("part") else file.name
            os.link(file, target / name)


def child(part: str, kind: str, folder: Path) -> str:
    """The output of a separate process."""
    started = time.perf_counter()
    command = [sys.executable, __file__, "--child", part, kind, str(folder)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    return f"{output}; {time.perf_counter() - started:.1f} s in total"


def read_in_child(part: str, kind: str, folder: str) -> None:
    """Read the data in this process, and print the cost."""
    started = time.perf_counter()
    if part == "memory":
        values = FEATURES["dense"] | {"train_data": linked(dense(Path(folder), kind), folder, kind)}
        stream = open_stream(config_of(values), {}, JobMode.TRAIN)
        for _ in stream:
            pass
        print(f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB", end="")
        return
    features = {"continuous": ["number0"], "discrete": {"code0": {"size": 1000}}}
    source = {"kind": kind, "inputs": f"{folder}/{kind}/part*"}
    data: dict[str, Any] = {"source": source, "tasks": {"label0": {}}}
    tasks = {"label0": FEATURES["table"]["model"]["tasks"]["label0"]}
    model = FEATURES["table"]["model"] | {"tasks": tasks}
    stream = open_stream(
        config_of(FEATURES["table"] | {"features": features, "model": model, "train_data": data}), {}, JobMode.TRAIN
    )
    stream.load_state_dict(stream.state_dict() | {"row": LONG_ROWS * LONG_FILES // 2 + 12_345})
    with closing(iter(stream)) as batches:
        next(batches)
    print(f"{time.perf_counter() - started:.2f} s to the first batch", end="")


def linked(train_data: dict[str, Any], folder: str, kind: str) -> dict[str, Any]:
    """The same `train_data`, reading the linked files once."""
    source = train_data["source"] | {"inputs": f"{folder}/{kind}/part*"}
    if "schema_path" in source:
        source["schema_path"] = f"{folder}/{kind}/schema.json"
    return {key: value for key, value in train_data.items() if key != "layout"} | {"source": source, "num_epochs": 1}


if __name__ == "__main__":
    torch.set_num_threads(2)
    main()
