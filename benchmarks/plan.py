"""Fits the constants of `recap plan --device cpu` to training steps measured on this machine.

    python benchmarks/plan.py [--output measured.json] [--precision float32] [--processes 1 2 4] [--steps 40]

Trains networks and tables of several shapes with 1, 2 and 4 processes, rows in memory, and takes the fastest step of
each, which other load on the machine affects least. The time of a step is modeled as a sum: FLOPs, bytes of memory,
bytes between processes, calls of operators and rounds of messages, each at a constant rate. The rates are fitted to
some shapes by least squares of relative errors, none negative; the errors are those of the other shapes. `--output`
writes the file that `recap plan --measured` reads.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.optimize import nnls  # type: ignore[import-untyped]

from recap.config.file.load import config_of
from recap.config.recap import RecapConfig
from recap.native.allocator import tune_process
from recap.planning.machines import Machine, Measured
from recap.planning.memory import placement_of
from recap.planning.network import network_costs
from recap.planning.plan import step_time
from recap.planning.work import step_work
from recap.reporting import Reporter
from recap.runtime import available_cpus
from recap.training.trainer import train

NUMBERS, ROWS = 256, 4096
RATE = {"kind": "constant", "learning_rate": 1e-3}
CONSTANTS = ("flops_per_second", "bytes_per_second", "exchange_bytes_per_second", "seconds_per_operation",
             "seconds_per_round")  # fmt: skip
SHAPES: dict[str, dict[str, Any]] = {
    "narrow": {"layers": [128, 64], "batch": 256},
    "wide, few rows": {"layers": [2048, 1024], "batch": 128},
    "wide, many rows": {"layers": [2048, 1024], "batch": 1024},
    "deep": {"layers": [256] * 8, "batch": 512},
    "sparse tables": {"layers": [128, 64], "batch": 1024, "tables": 4, "size": 500_000, "width": 32, "sparse": True},
    "sparse tables, many rows": {
        "layers": [128, 64], "batch": 4096, "tables": 4, "size": 500_000, "width": 32, "sparse": True,
    },
    "dense tables": {"layers": [128, 64], "batch": 512, "tables": 2, "size": 100_000, "width": 32, "sparse": False},
}  # fmt: skip
"""Shapes that the constants are fitted to."""
OTHERS: dict[str, dict[str, Any]] = {
    "other network": {"layers": [1024, 512, 256], "batch": 512},
    "other network, many rows": {"layers": [512, 512], "batch": 4096},
    "other sparse tables": {"layers": [512], "batch": 2048, "tables": 8, "size": 200_000, "width": 16, "sparse": True},
    "other dense tables": {"layers": [256], "batch": 256, "tables": 1, "size": 100_000, "width": 64, "sparse": False},
}
"""Shapes that they are checked on."""


def main() -> None:
    """Measure, fit, and print the errors of each shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--machine", default=f"{available_cpus()} cores", help="its kind, in words")
    parser.add_argument("--precision", choices=["float32", "bf16"], default="float32")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        measure(options.child, options.precision, options.steps)
        return
    seconds: dict[tuple[str, int], float] = {}
    with tempfile.TemporaryDirectory() as name:
        write_rows(Path(name))
        for processes in options.processes:
            seconds |= _measured(Path(name), processes, options.precision, options.steps)
    measured = fit(seconds, options.machine, options.precision)
    print(measured.model_dump_json(indent=1))
    if options.output is not None:
        options.output.write_text(measured.model_dump_json(indent=1))
        print(f"written: {options.output}; use it with recap plan --device cpu --measured {options.output}")


def write_rows(folder: Path) -> None:
    """Write rows with the columns of all shapes."""
    random = np.random.default_rng(0)
    numbers = pa.array(random.normal(size=ROWS * NUMBERS).astype(np.float32))
    columns: dict[str, Any] = {"numbers": pa.FixedSizeListArray.from_arrays(numbers, NUMBERS)}
    columns |= {f"id{index}": random.integers(0, 2**31, ROWS) for index in range(8)}
    columns["like"] = random.integers(0, 2, ROWS).astype(np.int8)
    pq.write_table(pa.table(columns), folder / "rows.parquet")


def shape_config(name: str, folder: Path, precision: str, steps: int, threads: int) -> RecapConfig:
    """The configuration of a shape."""
    shape = (SHAPES | OTHERS)[name]
    names = [f"id{index}" for index in range(shape.get("tables", 0))]
    algorithm = {"kind": "rowwise_adagrad"} if shape.get("sparse") else {"kind": "adam"}
    tables = {"algorithm": algorithm, "learning_rate": RATE, "sparse": shape.get("sparse", False)}
    return config_of(
        {
            "training": {
                "save_dir": str(folder / f"{name}, {os.environ.get('WORLD_SIZE', 1)}"),
                "num_train_steps": steps,
                "precision": precision,
                "threads": threads,
            },
            "features": {
                "continuous": [{"name": "numbers", "length": NUMBERS}],
                "discrete": {name: {"hash": {"buckets": shape["size"], "hashes": 1}} for name in names},
            },
            "model": {
                "embeddings": dict.fromkeys(names, shape.get("width")),
                "tasks": {"like": {"tower": {"kind": "mlp", "layer_sizes": shape["layers"]}}},
            },
            "train_data": {
                "source": {"inputs": str(folder / "rows.parquet")},
                "global_batch_size": shape["batch"],
                "shuffle_window_rows": ROWS,
                "cache": True,
                "tasks": {"like": {}},
            },
            "optimizer": {"tables": tables if names else None, "backbone": RATE, "towers": {"default": RATE}},
        }
    )


class Steps(Reporter):
    """Notes the duration of each step."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def advance(self, step: int, loss: float, examples: int, losses: Mapping[str, float], waited: float) -> None:
        """Note the end of a step."""
        self.ends.append(time.perf_counter())

    @property
    def fastest(self) -> float:
        """Seconds."""
        return min(end - start for start, end in zip(self.ends[5:], self.ends[6:], strict=False))


def measure(folder: Path, precision: str, steps: int) -> None:
    """Train all shapes in this process of a run; rank 0 adds the fastest step of each to `seconds.json`."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    threads = max(available_cpus() // processes, 1)
    tune_process()
    seconds = {}
    for name in SHAPES | OTHERS:
        clock = Steps()
        train(shape_config(name, folder, precision, steps, threads), clock)
        seconds[name] = clock.fastest if clock.ends else 0.0  # only rank 0 reports
    if os.environ.get("RANK", "0") == "0":
        (folder / "seconds.json").write_text(json.dumps(seconds))


def _measured(folder: Path, processes: int, precision: str, steps: int) -> dict[tuple[str, int], float]:
    """Shape and processes → seconds of the fastest step."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    options = [__file__, "--child", str(folder), "--precision", precision, "--steps", str(steps)]
    command = [sys.executable, *(launch if processes > 1 else []), *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds: dict[str, float] = json.loads((folder / "seconds.json").read_text())
    return {(name, processes): fastest for name, fastest in seconds.items()}


def fit(seconds: Mapping[tuple[str, int], float], machine: str, precision: str) -> Measured:
    """The constants, and the errors on the shapes that they were not fitted to."""
    features = {key: _amounts(key[0], key[1], precision) for key in seconds}
    chosen = [key for key in seconds if key[0] in SHAPES]
    relative = np.array([features[key] / seconds[key] for key in chosen])
    scale = relative.max(axis=0)
    scale[scale == 0] = 1.0
    costs = nnls(relative / scale, np.ones(len(chosen)))[0] / scale
    errors = {}
    for key, measured in seconds.items():
        errors[key] = float(features[key] @ costs) / measured - 1
        kind = "fitted" if key[0] in SHAPES else "other"
        print(f"{key[0]:<26}{key[1]} processes {1000 * measured:10.2f} ms, model {errors[key]:+.0%} ({kind})")
    others = [abs(error) for key, error in errors.items() if key[0] in OTHERS]
    costs = np.maximum(costs, 1e-15)  # a cost that the fit does not need
    rates = [1 / cost if name.endswith("per_second") else cost for name, cost in zip(CONSTANTS, costs, strict=True)]
    return Measured(
        machine=machine,
        date=f"{datetime.now(UTC):%B %Y}",
        cores=available_cpus(),
        precision=precision,
        **dict(zip(CONSTANTS, map(float, rates), strict=True)),
        median_error=statistics.median(others),
        largest_error=max(others),
    )


def _amounts(name: str, processes: int, precision: str) -> np.ndarray:
    """What a step does, in units of the constants: its time is their sum, each times its cost."""
    config = shape_config(name, Path(), precision, 1, 1)
    network = network_costs(config, {}, precision)
    work = step_work(config, network, placement_of(config, network, processes, None), processes)
    unit = Machine("", "", {precision: 1.0}, 1.0, 1.0, 1.0, 1.0, 1.0, None, 0.0, cores=available_cpus())
    time = step_time(work, unit, precision, processes, processes)
    return np.array([time.compute, time.memory, time.exchange + time.summing, time.host, time.latency])


if __name__ == "__main__":
    main()
