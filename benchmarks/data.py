"""Rows/s from files to batches, for layouts typical of rankers.

python benchmarks/data.py [--tensorflow PYTHON]

`--tensorflow`: an interpreter with TensorFlow, whose tf.data pipeline reads the same TFRecord files for comparison.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recap.config.file.load import config_of
from recap.config.recap import JobMode
from recap.data.open import open_stream
from recap.data.tools.convert import convert_files
from recap.native.allocator import tune_process

TABLE_ROWS = 2_000_000
"""Rows of 60 scalar columns."""
DENSE_ROWS, DENSE_FILES = 1_500, 6
"""Rows per file, and files, of the published layout: 6000 float, 512 + 320 int, 3×200 float, 13 labels."""
TASKS = [f"label{index}" for index in range(13)]

EPOCHS = 10
"""Passes over the files, after a warm-up pass."""

_TF_DATA = """
import glob, os, sys, time
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import tensorflow as tf
def fixed(length, kind): return tf.io.FixedLenFeature(length, kind, [kind.as_numpy_dtype(0)] * length)
labels = [f"label{index}" for index in range(13)]
spec = {"continuous": fixed(6000, tf.float32), "binary": fixed(512, tf.int64), "discrete": fixed(320, tf.int64)}
spec |= {f"vector{index}": fixed(200, tf.float32) for index in range(3)}
spec |= {label: fixed(1, tf.int64) for label in labels}
def parse(rows):
    columns = tf.io.parse_example(rows, spec)
    columns["binary"] = tf.cast(columns["binary"], tf.float32)
    columns["labels"] = tf.cast(tf.concat([columns.pop(label) for label in labels], axis=1), tf.float32)
    return columns
files = sorted(glob.glob(sys.argv[1]))
def rows_per_second(epochs):
    data = tf.data.Dataset.from_tensor_slices(files).repeat(epochs).interleave(
        lambda file: tf.data.TFRecordDataset(file, compression_type="GZIP"), cycle_length=4,
        num_parallel_calls=tf.data.AUTOTUNE, deterministic=False)
    data = data.shuffle(1024).batch(128).map(parse, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
    started = time.perf_counter()
    rows = sum(batch["continuous"].shape[0] for batch in data.as_numpy_iterator())
    return rows / (time.perf_counter() - started)
rows_per_second(1)
print(rows_per_second(int(sys.argv[2])))
"""


def main() -> None:
    """Print a line for each layout and format."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tensorflow", metavar="PYTHON", default=None)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    tune_process()  # as the command line does
    interpreter = options.tensorflow
    if options.child:
        kind, made = options.child
        print(rows_per_second(dense(Path(made), kind), DENSE_ROWS * DENSE_FILES))
        return
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        table = write_table(folder)
        for window in (65_536, 0):
            rate = rows_per_second(table | {"shuffle_window_rows": window}, TABLE_ROWS)
            print(f"60 scalar columns, Parquet, window {window:>6,}: {rate:>12,.0f} rows/s (target: 1,000,000)")
        write_dense(folder)
        rates: dict[str, list[float]] = {}
        for _ in range(3):  # alternating, so that other load on the machine affects all
            commands = {
                kind: [sys.executable, __file__, "--child", kind, made] for kind in ("tfrecord", "parquet", "packed")
            }
            if interpreter is not None:
                files = str(folder / "dense" / "tfrecord" / "*.gz")
                commands["tf.data"] = [interpreter, "-c", _TF_DATA, files, str(EPOCHS)]
            for kind, command in commands.items():
                output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                rates.setdefault(kind, []).append(float(output))
        medians = {kind: np.median(measured) for kind, measured in rates.items()}
        for kind, rate in medians.items():
            ratio = f" = {rate / medians['tf.data']:.2f} × tf.data" if interpreter else ""
            print(f"published layout, {kind:<8}: {rate:>8,.0f} rows/s{ratio}")


def rows_per_second(train_data: dict[str, Any], rows: int) -> float:
    """The speed over several epochs of `train_data`, of `rows` rows each, without opening the files."""
    values = FEATURES[train_data["layout"]]
    data = {key: value for key, value in train_data.items() if key != "layout"}

    def measured(epochs: int) -> float:
        config = config_of(values | {"train_data": data | {"num_epochs": epochs}})
        stream = open_stream(config, {}, JobMode.TRAIN)
        started = time.perf_counter()
        deque(stream, maxlen=0)
        return rows * epochs / (time.perf_counter() - started)

    measured(1)
    return measured(EPOCHS)


_RATE = {"kind": "constant", "learning_rate": 0.1}
_REST = {"optimizer": {"backbone": _RATE, "towers": {"default": _RATE}}}
_TOWER = {"tower": {"kind": "mlp"}}
FEATURES: dict[str, Any] = {
    "table": _REST
    | {
        "features": {
            "continuous": [f"number{index}" for index in range(37)],
            "discrete": {f"code{index}": {"size": 1000} for index in range(15)},
        },
        "model": {"embeddings": {"default": 4}, "tasks": dict.fromkeys(TASKS[:8], _TOWER)},
    },
    "dense": _REST
    | {
        "features": {
            "continuous": [{"name": "continuous", "length": 6000}],
            "binary": [{"name": "binary", "length": 512}],
            "discrete": {"discrete": {"size": 300, "length": 320}},
            "vectors": {f"vector{index}": 200 for index in range(3)},
        },
        "model": {"embeddings": {"default": 1}, "tasks": dict.fromkeys(TASKS, _TOWER)},
    },
}


def write_table(folder: Path) -> dict[str, Any]:
    """Write a table like an impression log; return the `train_data` that reads it."""
    random = np.random.default_rng(0)
    columns: dict[str, Any] = {f"number{i}": random.normal(size=TABLE_ROWS).astype(np.float32) for i in range(37)}
    columns |= {f"code{i}": random.integers(0, 1000, TABLE_ROWS).astype(np.int32) for i in range(15)}
    columns |= {task: (random.random(TABLE_ROWS) < 0.1).astype(np.int8) for task in TASKS[:8]}
    pq.write_table(pa.table(columns), folder / "table.parquet", row_group_size=65_536, compression="zstd")
    source = {"inputs": str(folder / "table.parquet")}
    return {"layout": "table", "source": source, "global_batch_size": 4096, "tasks": {task: {} for task in TASKS[:8]}}


def write_dense(folder: Path) -> None:
    """Write the published layout as Parquet of lists, packed Parquet and gzip TFRecord; 70% of the floats are 0."""
    random = np.random.default_rng(0)

    def lists(width: int, high: int = 0) -> pa.Array:
        shape = DENSE_ROWS * width
        values = random.integers(0, high, shape) if high else random.normal(size=shape).astype(np.float32)
        if not high:
            values[random.random(shape) < 0.7] = 0
        return pa.FixedSizeListArray.from_arrays(pa.array(values), width)

    (folder / "dense" / "parquet").mkdir(parents=True)
    for number in range(DENSE_FILES):
        columns = {"continuous": lists(6000), "binary": lists(512, 2), "discrete": lists(320, 300)}
        columns |= {f"vector{index}": lists(200) for index in range(3)}
        columns |= {task: pa.array((random.random(DENSE_ROWS) < 0.1).astype(np.int64)) for task in TASKS}
        file = folder / "dense" / "parquet" / f"part-{number}.parquet"
        pq.write_table(pa.table(columns), file, row_group_size=DENSE_ROWS, compression="zstd")
    made = [str(folder / "dense" / "parquet" / "*.parquet")]
    convert_files(made, folder / "dense" / "tfrecord", "tfrecord")
    convert_files(made, folder / "dense" / "packed", "parquet", packed=True)


def dense(folder: Path, kind: str) -> dict[str, Any]:
    """The `train_data` that reads the published layout."""
    format_ = "tfrecord" if kind == "tfrecord" else "parquet"
    source = {"kind": format_, "inputs": str(folder / "dense" / kind / "part-*")}
    if kind == "tfrecord":
        source["schema_path"] = str(folder / "dense" / kind / "schema.json")
    batches = {"global_batch_size": 128, "shuffle_window_rows": 1024}
    return {"layout": "dense", "source": source, "tasks": {task: {} for task in TASKS}, **batches}


if __name__ == "__main__":
    main()
