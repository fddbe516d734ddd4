"""The effect of position debias on the order of candidates, where the truth is known.

    python benchmarks/position_debias.py [--rows 400000] [--steps 3000]

In the simulated world clicks decrease with the logarithm of the position. Here candidates were shown in the order of
their popularity (`ranked`), so that the effect of position looks like that of popularity. It trains models without the
position; with the position as an ordinary feature, scored at the shown position and at the first position for all; and
with position debias, for two drop probabilities and both ways of scoring. It prints the expected AUC of each against
the true probability of a click without the effect of position, the order to recover. `the truth` is the maximum.
"""

import argparse
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from recap.config.file.load import config_of
from recap.config.recap import RecapConfig
from recap.data.batch import Batch
from recap.data.encoding.encoder import RowEncoder
from recap.data.encoding.labels import LabelEncoder
from recap.data.formats.location import Location
from recap.data.simulate.world import BLOCK_MS, BLOCK_ROWS, POSITIONS, START_MS, TASKS, World
from recap.model.objective.losses import MultiTaskLoss
from recap.model.ranker import Ranker

TASK = "is_clicked"
CONTINUOUS = ["author_followers", "author_toxicity", "post_views", "post_age_hours", "user_favorites_7d", "topic_trend"]
BATCH_ROWS = 1024
UNBIASED = "labels without the effect"
"""The same model, trained on as many rows without bias: the best that debias can reach."""
MODELS: dict[str, dict[str, Any]] = {
    UNBIASED: {"embeddings": {"default": 8, "position": 0}},
    "no position": {"embeddings": {"default": 8, "position": 0}},
    "position as a feature": {"embeddings": {"default": 8}},
    **{
        f"debias, {drop:g}, {scored_at}": {
            "embeddings": {"default": 8},
            "position_debias": {
                "feature": "position",
                "num_dims": 8,
                "drop_probability": drop,
                "scored_at": scored_at,
            },
        }
        for drop in (0.5, 0.1)
        for scored_at in ("hidden", "average")
    },
}


def main() -> None:
    """Run the benchmark and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    world = World(0, 16, ranked=True)
    train = _rows(world, 0, options.rows)
    validation = _rows(world, 1, 100_000)
    truth = torch.from_numpy(_unbiased(*validation))
    aucs: dict[str, list[float]] = {}
    for seed in range(options.seeds):
        for name, model in MODELS.items():
            started = time.monotonic()
            config = _config(model)
            encoder = RowEncoder(config.features, {}, LabelEncoder(config.tasks, config.train_data.labels))
            rows = _with_unbiased_labels(*train, seed) if name == UNBIASED else train[0]
            ranker = _trained(config, encoder.encode(rows, Location("train")), options.steps, seed)
            batch = encoder.encode(validation[0], Location("validation"))
            aucs.setdefault(name, []).append(expected_auc(_scores(ranker, batch), truth))
            if name == "position as a feature":
                batch.discrete[:, list(config.features.discrete).index("position")] = 1
                aucs.setdefault("  … scored at the first", []).append(expected_auc(_scores(ranker, batch), truth))
            print(f"{name}, seed {seed}: {time.monotonic() - started:.0f} s", flush=True)
    aucs["the truth"] = [expected_auc(truth, truth)]
    print(f"AUC of the order without the position, {TASK}, mean (and each) of {options.seeds} seeds")
    for name, areas in aucs.items():
        print(f"{name:28}{np.mean(areas):.4f}  ({', '.join(f'{area:.4f}' for area in areas)})")


def expected_auc(scores: Tensor, probabilities: Tensor) -> float:
    """Expected AUC of labels drawn from the probabilities: each row is partly a positive and partly a negative."""
    order = scores.argsort()
    positive = probabilities.double()[order]
    below = (1 - positive).cumsum(0) - (1 - positive)
    return float((positive * below).sum() / (positive.sum() * (1 - positive).sum()))


def _rows(world: World, split: int, rows: int) -> tuple[pa.Table, pa.Table]:
    """Rows of the world, and the probabilities of their labels."""
    count = -(-rows // BLOCK_ROWS)
    start = START_MS + split * 365 * BLOCK_MS
    blocks = [world.block(split, number, start + number * BLOCK_MS) for number in range(count)]
    tables = [pa.concat_tables(part).slice(0, rows) for part in zip(*((b.rows, b.truth) for b in blocks), strict=True)]
    return tables[0], tables[1]


def _unbiased(rows: pa.Table, truth: pa.Table) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The probability of an engagement at the position whose effect is 0."""
    probability = truth.column(TASK).to_numpy()
    effect = TASKS[TASK].drivers["position"] * (np.log1p(rows.column("position").to_numpy()) - 2.0)
    logit = np.log(probability / (1 - probability)) - effect
    return np.asarray(1 / (1 + np.exp(-logit)))


def _with_unbiased_labels(rows: pa.Table, truth: pa.Table, seed: int) -> pa.Table:
    """The rows, with labels as if all had been shown at the position whose effect is 0."""
    labels = np.random.default_rng(seed).random(rows.num_rows) < _unbiased(rows, truth)
    return rows.set_column(rows.schema.get_field_index(TASK), TASK, pa.array(labels.astype(np.int8)))


def _config(model: Mapping[str, Any]) -> RecapConfig:
    tower = {"tower": {"kind": "mlp", "layer_sizes": [32]}}
    rate = {"kind": "constant", "learning_rate": 0.001}
    return config_of(
        {
            "features": {
                "continuous": CONTINUOUS,
                "binary": ["is_in_network", "has_video", "same_language"],
                "discrete": {"hour": {"size": 24}, "topic": {"size": 40}, "position": {"size": POSITIONS}},
                "vectors": {"user_embedding": 16, "author_embedding": 16},
            },
            "model": {
                "backbone": {"kind": "mlp", "layer_sizes": [128, 64], "final_layer_activation": True},
                "sharing": {"kind": "share_all"},
                "tasks": {TASK: tower},
                **model,
            },
            "train_data": {"source": {"inputs": "unread"}, "tasks": {TASK: {}}},
            "optimizer": {"backbone": rate, "towers": {"default": rate}},
        }
    )


def _trained(config: RecapConfig, batch: Batch, steps: int, seed: int) -> Ranker:
    torch.manual_seed(seed)
    ranker, loss = Ranker(config, {}), MultiTaskLoss([1.0])
    optimizer = torch.optim.Adam(ranker.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        part = batch.rows(torch.randint(len(batch), (BATCH_ROWS,)))
        optimizer.zero_grad()
        loss(ranker(part).logits, part.labels, part.weights).mean().backward()
        optimizer.step()
        schedule.step()
    return ranker


def _scores(ranker: Ranker, batch: Batch) -> Tensor:
    ranker.eval()
    with torch.inference_mode():
        return torch.cat(
            [ranker(batch.rows(slice(row, row + 8192))).logits[:, 0] for row in range(0, len(batch), 8192)]
        )


if __name__ == "__main__":
    main()
