"""Losses on order beside cross entropy alone: what they do to the order within requests, and to the probabilities.

    python benchmarks/losses.py [--steps 1000] [--seeds 2] [LOSS=WEIGHT ...]

Simulates a feed with requests of 10 to 20 candidates, in row groups as large as a batch that are shuffled as a whole,
so that the rows of a request stay together. Trains a model of three tasks with each loss in addition to cross entropy,
and prints for every task, as means over the seeds: the AUC of all validation rows and within requests, RCE, ECE, and
PCTR / CTR, which is 1 where the mean probability is right. `± ` is the standard deviation over the seeds.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import recap
from recap.config.file.load import config_of
from recap.config.recap import RecapConfig
from recap.data.simulate.world import BLOCK_MS, BLOCK_ROWS, POSITIONS, START_MS, World

TASKS = ["is_video_watched", "is_clicked", "is_favorited"]
BATCH_ROWS = 1024
LOSSES = ["pairwise=0.1", "pairwise=1", "listwise=0.1", "listwise=1", "jrc=0.1", "jrc=1"]
METRICS = {"auc": "AUC", "grouped_auc": "in requests", "rce": "RCE", "ece": "ECE", "calibration": "PCTR/CTR"}


def main() -> None:
    """Run the benchmark and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("losses", nargs="*", default=LOSSES)
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    print(f"{'loss':<14} {'task':<17}" + "".join(f"{label:>20}" for label in METRICS.values()))
    with tempfile.TemporaryDirectory() as work:
        feed = Path(work)
        _write(World(0, 16), feed / "train", 0, options.rows)
        _write(World(0, 16), feed / "validation", 1, 150_000)
        for loss in ["cross entropy", *options.losses]:
            started = time.monotonic()
            values = np.array(
                [_measured(_config(feed, loss, options.steps, seed)) for seed in range(options.seeds)]
            )  # [seeds, tasks, metrics]
            deviations = values.std(axis=0, ddof=1) if options.seeds > 1 else np.zeros_like(values[0])
            for task, means, spreads in zip(TASKS, values.mean(axis=0), deviations, strict=True):
                cells = (f"{mean:.4f} ± {spread:.4f}" for mean, spread in zip(means, spreads, strict=True))
                print(f"{loss:<14} {task:<17}" + "".join(f"{cell:>20}" for cell in cells))
            print(f"{(time.monotonic() - started) / options.seeds:.0f} s a run", flush=True)


def _write(world: World, folder: Path, split: int, rows: int) -> None:
    """Blocks of the world with a column `request_id`, each a file of row groups of a batch."""
    folder.mkdir()
    start = START_MS + split * 365 * BLOCK_MS
    for number in range(-(-rows // BLOCK_ROWS)):
        table = world.block(split, number, start + number * BLOCK_MS).rows
        first = table.column("position").to_numpy() == 0  # of a request
        table = table.append_column("request_id", pa.array(number * BLOCK_ROWS + first.cumsum()))
        pq.write_table(table, folder / f"part-{number:05}.parquet", row_group_size=BATCH_ROWS)


def _config(feed: Path, loss: str, steps: int, seed: int) -> RecapConfig:
    field, _, weight = loss.partition("=")
    task: dict[str, Any] = {"tower": {"kind": "mlp", "layer_sizes": [32]}}
    task |= {field: {"weight": float(weight), "group": "request"}} if weight else {}
    rate = {
        "kind": "linear_ramp_to_cosine",
        "learning_rate": 2e-3,
        "final_learning_rate": 1e-5,
        "num_ramp_steps": 50,
        "final_num_steps": steps,
    }
    return config_of(
        {
            "training": {
                "save_dir": str(feed / f"{loss} {seed}"),
                "seed": seed,
                "num_train_steps": steps,
                "checkpoint_every_n": steps,
                "eval_log_every_n": None,
            },
            "features": {
                "continuous": [
                    *("author_followers", "author_toxicity", "post_views", "post_age_hours", "post_length"),
                    *("user_favorites_7d", "user_days_active", "topic_trend"),
                ],
                "binary": ["is_in_network", "has_video", "has_image", "user_is_verified", "same_language"],
                "discrete": {"hour": {"size": 24}, "topic": {"size": 40}, "position": {"size": POSITIONS}},
                "vectors": {"user_embedding": 16, "author_embedding": 16},
                "user": "user_id",
                "request": "request_id",
            },
            "model": {
                "embeddings": {"default": 8},
                "backbone": {"kind": "mlp", "layer_sizes": [256, 128], "final_layer_activation": True},
                "sharing": {"kind": "share_all"},
                "tasks": dict.fromkeys(TASKS, task),
            },
            "train_data": {
                "source": {"inputs": f"{feed}/train/*.parquet"},
                "global_batch_size": BATCH_ROWS,
                "shuffle_window_rows": 1,  # a window is a row group
                "tasks": {name: {} for name in TASKS},
            },
            "validation_data": {"validation": {"source": {"inputs": f"{feed}/validation/*.parquet"}}},
            "optimizer": {"backbone": rate, "towers": {"default": rate}},
        }
    )


def _measured(config: RecapConfig) -> list[list[float]]:
    """Train, and evaluate: the metrics of every task."""
    recap.train(config, reporter=recap.Reporter())
    metrics = recap.evaluate(config.training.save_dir).splits["validation"].metrics
    return [[metrics[task][name] for name in METRICS] for task in TASKS]


if __name__ == "__main__":
    main()
