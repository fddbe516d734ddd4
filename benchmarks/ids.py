"""A table of fixed size for ids that come and go: hashed, or with rows of their own while they are frequent.

    python benchmarks/ids.py [--rows 2000] [--steps 1000]

A stream in which an id of a Zipf distribution is new at first and later gone, and whose label depends on the id alone.
Prints for each kind of table the AUC on rows that follow the training data, beside that of the true probabilities, and
the hits: the share of these rows whose id has a row of its own.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from sklearn.metrics import roc_auc_score

import recap
from recap.config.file.load import config_of
from recap.data.encoding.hashing import codes_of_ids
from recap.model.inputs.row_ids import NO_ID
from recap.runs import Run

BATCH_ROWS = 512
IDS_A_STEP = 20
"""Ids that appear in a step, and as many that vanish."""
ALIVE = 10_000


def main() -> None:
    """Run the benchmark and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=1000)
    options = parser.parse_args()
    rows = options.rows
    own = {"rows": rows, "evict_every": 20}
    tables = {
        "hash, 1 function": {"hash": {"buckets": rows, "hashes": 1}},
        "hash, 2 functions": {"hash": {"buckets": rows, "hashes": 2}},
        "zero_collision": {"zero_collision": own},
        "admit_after 3": {"zero_collision": own | {"admit_after": 3}},
        "and evict_after 200": {"zero_collision": own | {"admit_after": 3, "evict_after": 200}},
        "lfu": {"zero_collision": own | {"policy": "lfu"}},
    }
    with tempfile.TemporaryDirectory() as work:
        feed = Path(work)
        _write(feed / "train.parquet", range(options.steps))
        ids, labels, truth = _write(feed / "validation.parquet", range(options.steps, options.steps + 20))
        print(f"{'table':<20} {'AUC':>7} {'hits':>7}\n{'true probabilities':<20} {roc_auc_score(labels, truth):>7.4f}")
        for name, table in tables.items():
            config = config_of(_values(feed, name, table, options.steps))
            recap.train(config, reporter=recap.Reporter())
            auc = recap.evaluate(config.training.save_dir).splits["validation"].metrics["click"]["auc"]
            print(f"{name:<20} {auc:>7.4f} {_hits(Path(config.training.save_dir), options.steps, ids):>7}", flush=True)


def _write(file: Path, steps: range) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rows of some steps: ids, labels and true probabilities."""
    random = np.random.default_rng(steps.start)
    step = np.repeat(np.arange(steps.start, steps.stop), BATCH_ROWS)
    place = np.minimum(random.zipf(1.3, len(step)) - 1, 10**9) * 7919 % ALIVE  # the frequent ones have any age
    ids = place + ALIVE * ((step * IDS_A_STEP + ALIVE - place) // ALIVE)  # a place passes to a new id in its turn
    quality = np.random.default_rng(1).normal(size=ALIVE + int(ids.max()) + 1)[ids] * 1.5 - 1
    truth = 1 / (1 + np.exp(-quality))
    labels = (random.random(len(step)) < truth).astype(np.int8)
    pq.write_table(pa.table({"post": ids, "click": labels}), file, row_group_size=BATCH_ROWS)
    return ids, labels, truth


def _values(feed: Path, name: str, table: dict[str, Any], steps: int) -> dict[str, Any]:
    constant = {"kind": "constant", "learning_rate": 2e-3}
    rows = {"algorithm": {"kind": "adagrad"}, "learning_rate": constant | {"learning_rate": 0.1}, "sparse": True}
    return {
        "training": {
            "save_dir": str(feed / name),
            "num_train_steps": steps,
            "checkpoint_every_n": steps,
            "eval_log_every_n": None,
        },
        "features": {"discrete": {"post": table}},
        "model": {
            "embeddings": {"post": 8},
            "backbone": {"kind": "mlp", "layer_sizes": [32]},
            "sharing": {"kind": "share_all"},
            "tasks": {"click": {"tower": {"kind": "mlp"}}},
        },
        "train_data": {
            "source": {"inputs": str(feed / "train.parquet")},
            "global_batch_size": BATCH_ROWS,
            "shuffle_window_rows": 0,  # in the order of time
            "tasks": {"click": {}},
        },
        "validation_data": {"validation": {"source": {"inputs": str(feed / "validation.parquet")}}},
        "optimizer": {"backbone": constant, "towers": {"default": constant}, "tables": rows},
    }


def _hits(run: Path, step: int, ids: np.ndarray) -> str:
    """The share of rows whose id has a row of its own; none can be told for a hash."""
    from safetensors.torch import load_file

    known = load_file(Run(run).checkpoint_path(step) / "weights.safetensors").get("inputs.embeddings.row_ids.post.ids")
    if known is None:
        return "-"
    return f"{torch.isin(torch.from_numpy(codes_of_ids(ids)), known[known != NO_ID]).float().mean():.3f}"


if __name__ == "__main__":
    main()
