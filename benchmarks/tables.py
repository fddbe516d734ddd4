"""The time of a training step with small and large embedding tables, dense and sparse.

    python benchmarks/tables.py [--rows 100000 10000000] [--width 16] [--batch 1024]

One id per example, an MLP of 64-32, one task. Each way of updating the table takes training steps (forward and backward
pass, optimizer) over batches of random ids: one pass to allocate the memory of their rows, then timed passes. It prints
the fastest step, which other load on the machine affects least, and its growth from the first size to the last.
"""

import argparse
import time
from typing import Any

import numpy as np
import pyarrow as pa

from recap.config.file.load import config_of
from recap.config.recap import RecapConfig
from recap.data.batch import Batch
from recap.data.encoding.encoder import RowEncoder
from recap.data.encoding.labels import LabelEncoder
from recap.data.formats.location import Location
from recap.model.ranker import Ranker
from recap.native.allocator import tune_process
from recap.runtime import seed_torch, start_runtime
from recap.training.balancing.build import build_balancing
from recap.training.optimizer.scheduled import ScheduledOptimizer
from recap.training.step import TrainStep

BATCHES, MIN_SECONDS = 32, 5.0
RATE = {"kind": "constant", "learning_rate": 1e-3}
WAYS: dict[str, dict[str, Any] | None] = {
    "adam, dense": None,
    "adam, sparse (lazy)": {"algorithm": {"kind": "adam"}, "learning_rate": RATE, "sparse": True},
    "rowwise_adagrad, dense": {"algorithm": {"kind": "rowwise_adagrad"}, "learning_rate": RATE},
    "rowwise_adagrad, sparse": {"algorithm": {"kind": "rowwise_adagrad"}, "learning_rate": RATE, "sparse": True},
    "sgd, sparse": {"algorithm": {"kind": "sgd"}, "learning_rate": RATE, "sparse": True},
}


def main() -> None:
    """Run the benchmark and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 10_000_000])
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--batch", type=int, default=1024)
    options = parser.parse_args()
    print("ms per step".ljust(26) + "".join(f"{rows:>14,}" for rows in options.rows) + "    grows by")
    for name, tables in WAYS.items():
        times = [_seconds(make_config(rows, options.width, options.batch, tables)) for rows in options.rows]
        shown = "".join(f"{1000 * seconds:14.2f}" for seconds in times)
        print(f"{name:26}{shown}{times[-1] / times[0]:11.2f}×", flush=True)


def make_config(rows: int, width: int, batch: int, tables: dict[str, Any] | None) -> RecapConfig:
    """A configuration with one table of `rows` rows; `tables`: `optimizer.tables`."""
    return config_of(
        {
            "features": {"continuous": ["age"], "discrete": {"post": {"size": rows}}},
            "model": {
                "embeddings": {"post": width},
                "tasks": {"like": {"tower": {"kind": "mlp", "layer_sizes": [64, 32]}}},
            },
            "train_data": {"source": {"inputs": "none"}, "global_batch_size": batch, "tasks": {"like": {}}},
            "optimizer": {"tables": tables, "backbone": RATE, "towers": {"default": RATE}},
        }
    )


def _batches(config: RecapConfig) -> list[Batch]:
    labels = LabelEncoder(config.tasks, config.train_data.labels)
    random, encoder = np.random.default_rng(0), RowEncoder(config.features, {}, labels)
    batch, size = config.train_data.global_batch_size, config.features.discrete["post"].model_dump()["size"]
    return [
        encoder.encode(
            pa.table(
                {
                    "age": random.normal(size=batch).astype(np.float32),
                    "post": random.integers(0, size, batch),
                    "like": random.integers(0, 2, batch).astype(np.int8),
                }
            ),
            Location("rows"),
        )
        for _ in range(BATCHES)
    ]


def _seconds(config: RecapConfig) -> float:
    """Seconds of the fastest step."""
    seed_torch(0, 0)
    tune_process()
    runtime = start_runtime()
    ranker = Ranker(config, {}).to(runtime.device).train()
    balancing = build_balancing(config, ranker.parameters(), runtime.device)
    optimizer = ScheduledOptimizer(config, ranker, balancing.parameters())
    step = TrainStep(config, ranker, balancing, optimizer, runtime)
    batches = _batches(config)
    times: list[float] = []
    while len(times) < 2 * BATCHES or sum(times[BATCHES:]) < MIN_SECONDS:
        number, started = len(times), time.perf_counter()
        step(batches[number % BATCHES], number + 1)
        times.append(time.perf_counter() - started)
    return min(times[BATCHES:])


if __name__ == "__main__":
    main()
