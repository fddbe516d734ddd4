"""Runs whose tables are whole or sharded: the same configuration, with one switch."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from support import LANGUAGES, Recorder, feed_values, write_feed
from training.runs import files, records

from recap.config.file.load import config_of
from recap.config.recap import RecapConfig
from recap.distributed import ONE_RANK, Ranks
from recap.signals import Signals
from recap.training.non_finite import RolledBack
from recap.training.profile import Profile
from recap.training.trainer import Trainer

STEPS = 50
SHORT = 8
"""Steps of a run in which the number of steps does not matter."""
ALGORITHMS: dict[str, dict[str, Any]] = {
    "sgd": {"kind": "sgd"},
    "adagrad": {"kind": "adagrad", "initial_accumulator_value": 0.1},
    "rowwise_adagrad": {"kind": "rowwise_adagrad", "epsilon": 1e-6},
}
TOLERANCE = 1e-5
"""Of losses, metrics and norms: sums in another order. Those in percent differ by a hundred times more."""
PERCENT = ("rce", "nrce")


def table_values(
    feed: Path, run: Path, sharding: str | None, algorithm: str, steps: int = STEPS, **training: Any
) -> dict[str, Any]:
    """Tables of three widths: hashed ids of two codes, a vocabulary, integer codes, and one that a history shares.

    Without dropout and BatchNorm, whose results depend on which rank has a row. `sharding`: None for whole tables.
    """
    values = feed_values(feed, run)
    values["features"].pop("user")
    values["features"]["discrete"] |= {
        "post": {"hash": {"buckets": 101, "hashes": 2}},
        "user_id": {"hash": {"buckets": 67, "hashes": 1}},
    }
    actions = {"column": "watched_action", "size": 3}
    watched = {"ids": {"column": "watched", "table": "post"}, "attributes": {"action": actions}, "max_length": 5}
    values["features"]["histories"] = {"watched": watched}
    values["model"]["histories"] = {"watched": {"encoder": {"kind": "pooling"}}}
    values["model"]["embeddings"] = {"default": 4, "post": 16, "user_id": 8}
    values["model"]["featurization"] = {"kind": "double_norm_log", "batch_norm": None}
    values["model"]["backbone"]["mlp"].pop("dropout")
    for task in values["model"]["tasks"].values():
        task["tower"] = {"kind": "mlp", "layer_sizes": [8]}
    values["optimizer"]["tables"] = {
        "algorithm": ALGORITHMS[algorithm],
        "learning_rate": {"kind": "linear_ramp_to_constant", "learning_rate": 0.05, "num_ramp_steps": 4},
        "sparse": True,
    }
    values["training"] |= {
        "num_train_steps": steps,
        "train_log_every_n": steps // 5,
        "eval_log_every_n": steps // 2,
        "checkpoint_every_n": 1000,
        "num_eval_steps": -1,
        "log_norms": True,
        **training,
    }
    if sharding is not None:
        values["training"]["sharded_tables"] = {"tables": {"default": sharding}}
    values["validation_data"]["validation"]["global_batch_size"] = 83  # 250 rows: the last batch has a single row
    return values


def run_values(
    values: dict[str, Any],
    ranks: Ranks = ONE_RANK,
    recorder: Recorder | None = None,
    prepare: Callable[[Trainer], None] = lambda trainer: None,
) -> Recorder:
    """Train to the end in this process, in the group of the ranks; rank 0's record of it.

    `prepare` may change the trainer before it runs.
    """
    recorder = Recorder() if recorder is None else recorder
    Path(values["training"]["save_dir"]).mkdir(parents=True, exist_ok=True)
    trainer = open_trainer(config_of(values), ranks, recorder)
    prepare(trainer)
    try:
        trainer.run(Profile(0, trainer.checkpoints.run.profile, recorder.say))
    except RolledBack as error:
        again = open_trainer(config_of(values), ranks, recorder, error.rolled_back)
        again.run(Profile(0, again.checkpoints.run.profile, recorder.say))
    return recorder


def open_trainer(
    config: RecapConfig,
    ranks: Ranks = ONE_RANK,
    recorder: Recorder | None = None,
    rolled_back: Sequence[list[int]] = (),
) -> Trainer:
    """A trainer whose run has not started."""
    recorder = Recorder() if recorder is None else recorder
    return Trainer(config, recorder, Signals(30.0), ranks, list(rolled_back))


def assert_equal_runs(whole: Path, sharded: Path, step: int) -> None:
    """The records, among them losses, metrics and norms, and the final weights and moments are those of `whole`."""
    for left, right in zip(records(whole), records(sharded), strict=True):
        assert left.keys() == right.keys()
        for name, value in left.items():
            size = 100 * TOLERANCE if name in PERCENT else TOLERANCE
            expected = pytest.approx(value, rel=TOLERANCE, abs=size) if isinstance(value, float) else value
            assert right[name] == expected, (left["step"], name)
    for file in ("weights.safetensors", "optimizer.safetensors"):
        left, right = files(whole, step, file), files(sharded, step, file)
        assert left.keys() == right.keys()
        for name in left:
            assert torch.allclose(left[name], right[name], rtol=1e-4, atol=1e-5), name


def write_inputs(folder: Path) -> None:
    """`feed`, with files of vectors and of another vocabulary."""
    feed = write_feed(folder / "feed", histories=True)
    words = {"word": ["en", "ja"], "row": [[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]}
    pq.write_table(pa.table(words), feed / "vectors.parquet")
    pq.write_table(pa.table({"value": ["xx", *reversed(LANGUAGES)]}), feed / "other.parquet")
