"""Calibration against the truth, after training on a small share of the negatives.

    python benchmarks/calibrate.py [--rows 400000] [--calibration-rows 1000000] [--steps 300]

Trains on simulated rows of which the negatives of one task are kept at 1:1, 1:10, 1:100 and 1:1000, calibrates on rows
of the whole population, and prints mean prediction / mean true probability on further rows, for every task: with the
correction of the sampling rate alone, and with each kind of calibration. Sampling by one task also changes the rates of
the others, which no correction knows, so there the first column is far off. `enough` marks the tasks for which the
calibration rows hold 40,000 positives: chance alone then moves the ratio by 0.5 % (one standard deviation), and by more
for the others.
"""

import argparse
import glob
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml

from recap.config.file.load import load_config
from recap.data.formats.location import Location
from recap.data.simulate.world import BLOCK_ROWS, TASKS
from recap.data.simulate.writer import BLOCKS_PER_FILE, simulate
from recap.evaluation.calibrate.run import Fit, calibrate_run
from recap.inference.predictor import Predictor
from recap.reporting import Reporter
from recap.runs import Run
from recap.training.trainer import train

ROWS_PER_FILE = BLOCK_ROWS * BLOCKS_PER_FILE
ENOUGH = 40_000
RATES = (1.0, 0.1, 0.01, 0.001)
CALIBRATIONS: dict[str, dict[str, Any]] = {
    "affine": {},
    "isotonic": {"method": "isotonic"},
    "by topic": {"by": "topic"},
}


def main() -> None:
    """Run the benchmark and print one table per rate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--calibration-rows", type=int, default=1_000_000)
    parser.add_argument("--test-rows", type=int, default=500_000)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--task", default="is_favorited", choices=TASKS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    calibration_files, test_files = (
        -(-rows // ROWS_PER_FILE) for rows in (options.calibration_rows, options.test_rows)
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        simulate(
            folder / "feed",
            rows=options.rows,
            validation_rows=(calibration_files + test_files) * ROWS_PER_FILE,
            embedding_size=16,
        )
        files = sorted(glob.glob(str(folder / "feed/validation/*.parquet")))
        splits = {"calibration": files[:calibration_files], "test": files[calibration_files:]}
        labels = pq.read_table(splits["calibration"], columns=list(TASKS))
        positives = {task: int(np.sum(labels.column(task).to_numpy())) for task in TASKS}
        for rate in RATES:
            rows = _sample(folder, options.task, rate)
            ratios = _ratios(folder / f"{rate:g}", splits, options.task, rate, options.steps)
            print(f"\nnegatives of {options.task} kept 1:{1 / rate:g}, {rows:,} rows to train on")
            print(f"{'task':22}{'positives':>10}  " + "".join(f"{kind:>10}" for kind in ratios) + "  enough")
            for task in TASKS:
                cells = "".join(f"{of_tasks[task]:10.4f}" for of_tasks in ratios.values())
                enough = "yes" if positives[task] >= ENOUGH else ""
                print(f"{task:22}{positives[task]:10,}  {cells}  {enough}", flush=True)


def _sample(folder: Path, task: str, rate: float) -> int:
    """Write the training rows with a sample of the negatives of `task`; return their number."""
    table = pq.read_table(folder / "feed/train")
    random = np.random.default_rng(0).random(table.num_rows)
    table = table.filter(pa.array((table.column(task).to_numpy() == 1) | (random < rate)))
    (folder / f"{rate:g}").mkdir()
    pq.write_table(table, folder / f"{rate:g}/train.parquet", row_group_size=4096)
    return int(table.num_rows)


def _ratios(
    folder: Path, splits: dict[str, list[str]], task: str, rate: float, steps: int
) -> dict[str, dict[str, float]]:
    """Kind of calibration → task → mean prediction / mean true probability on the test rows."""
    (folder / "ranker.yaml").write_text(yaml.safe_dump(_config(folder, splits, task, rate, steps)))
    config = load_config(folder / "ranker.yaml")
    train(config, Reporter())
    run = Run(folder / "run")
    ratios = {"sampling": _means(run.checkpoint(), splits["test"])}
    for kind, arguments in CALIBRATIONS.items():
        output = folder / kind.replace(" ", "_")
        calibrate_run(config, run.path, Fit("calibration", output=output, **arguments), lambda text: None)
        ratios[kind] = _means(output, splits["test"])
    return ratios


def _means(model: Path, files: list[str]) -> dict[str, float]:
    """Task → mean prediction / mean true probability."""
    predictor = Predictor.open(model)
    predicted = dict.fromkeys(TASKS, 0.0)
    true = dict.fromkeys(TASKS, 0.0)
    for file in files:
        probabilities = predictor.predict(pq.read_table(file), Location(file)).probabilities
        truth = pq.read_table(Path(file).parents[1] / "truth/validation" / Path(file).name)
        for column, task in enumerate(predictor.config.tasks):
            predicted[task] += probabilities[:, column].double().sum().item()
            true[task] += truth.column(task).to_numpy().sum()
    return {task: predicted[task] / true[task] for task in TASKS}


def _config(folder: Path, splits: dict[str, list[str]], task: str, rate: float, steps: int) -> dict[str, Any]:
    learning_rate = {
        "kind": "linear_ramp_to_cosine",
        "learning_rate": 0.002,
        "final_learning_rate": 1e-5,
        "num_ramp_steps": 50,
        "final_num_steps": steps,
    }
    return {
        "training": {
            "save_dir": str(folder / "run"),
            "num_train_steps": steps,
            "checkpoint_every_n": steps,
            "eval_log_every_n": None,
            "threads": 1,
        },
        "features": {
            "continuous": ["author_followers", "author_toxicity", "post_views", "post_age_hours", "user_favorites_7d"],
            "binary": ["is_in_network", "has_video", "same_language"],
            "discrete": {"hour": {"size": 24}, "topic": {"size": 40}, "position": {"size": 20}},
            "vectors": {"user_embedding": 16, "author_embedding": 16},
            "user": "user_id",
        },
        "model": {
            "embeddings": {"default": 8},
            "backbone": {"kind": "mlp", "layer_sizes": [128, 64], "final_layer_activation": True},
            "sharing": {"kind": "share_all"},
            "tasks": {name: {"tower": {"kind": "mlp", "layer_sizes": [32]}} for name in TASKS},
        },
        "train_data": {
            "source": {"inputs": str(folder / "train.parquet")},
            "tasks": {name: {"neg_downsampling_rate": rate} if name == task else {} for name in TASKS},
        },
        "validation_data": {
            split: {
                "source": {"inputs": files},
                "global_batch_size": 8192,
                "tasks": {name: {"neg_downsampling_rate": 1.0} for name in TASKS},  # all rows, unlike train_data
            }
            for split, files in splits.items()
        },
        "optimizer": {"backbone": learning_rate, "towers": {"default": learning_rate}},
    }


if __name__ == "__main__":
    main()
