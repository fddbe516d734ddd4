"""A small feed on disk, and a configuration that reads it, for tests of several rooms."""

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from recap.config.file.load import config_of
from recap.config.recap import RecapConfig
from recap.data.tools.convert import convert_files
from recap.reporting import Record, Reporter

RECIPES = Path(__file__).parents[1] / "recipes"
TASKS = ("like", "share")
LANGUAGES = ("en", "ja", "pt")


def load_script(path: Path) -> ModuleType:
    """Import a script that belongs to no package."""
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # pydantic and dataclasses look up their module
    spec.loader.exec_module(module)
    return module


def feed_table(rows: int, seed: int = 0) -> pa.Table:
    """Rows with every kind of column, and labels that depend on them."""
    random = np.random.default_rng(seed)
    age = np.exp(random.normal(size=rows) * 3).astype(np.float32)
    age[random.random(rows) < 0.1] = np.nan
    followers = np.exp(random.normal(size=rows) * 4).astype(np.float32)
    in_network = random.random(rows) < 0.5
    hour = random.integers(0, 24, rows)
    language = random.choice([*LANGUAGES, "xx"], rows)
    vector = random.normal(size=(rows, 4)).astype(np.float32)
    logit = 0.4 * np.log(followers) * in_network + vector[:, 0] + (hour < 6) - 0.5
    uniform = random.random((2, rows))
    return pa.table(
        {
            "user_id": random.integers(0, max(rows // 10, 1), rows),
            "post_id": np.arange(rows),
            "served_at_ms": np.arange(rows) * 1000,
            "age": pa.array(age, from_pandas=True),
            "followers": followers,
            "in_network": in_network,
            "hour": hour.astype(np.int32),
            "language": language,
            "vector": pa.FixedSizeListArray.from_arrays(vector.ravel(), 4),
            "topics": pa.FixedSizeListArray.from_arrays(np.stack([hour % 3, hour % 5], axis=1).ravel(), 2),
            "like": (uniform[0] < 1 / (1 + np.exp(-logit))).astype(np.int8),
            "share": (uniform[1] < 1 / (1 + np.exp(2 - logit))).astype(np.int8),
        }
    )


def history_table(rows: int, seed: int = 0) -> pa.Table:
    """A feed with post ids, and histories of 0 to 7 watched posts with their attributes."""
    table, random = feed_table(rows, seed), np.random.default_rng([seed, 1])
    lengths = random.integers(0, 8, rows)
    action = random.integers(0, 3, lengths.sum())
    offsets = pa.array(np.append(0, np.cumsum(lengths)), pa.int32())
    events = {
        "watched": random.integers(0, 50, lengths.sum()),
        "watched_action": action,
        "watched_language": np.array(LANGUAGES)[action],
        "watched_gap": np.exp(random.normal(size=lengths.sum()) * 3).astype(np.float32),
    }
    table = table.append_column("post", pa.array(random.integers(0, 50, rows)))
    for name, values in events.items():
        table = table.append_column(name, pa.ListArray.from_arrays(offsets, pa.array(values)))
    return table


def write_feed(
    folder: Path, *, train_rows: int = 600, validation_rows: int = 250, files: int = 3, histories: bool = False
) -> Path:
    """`train/` in several files of several row groups, `validation/` in one, and `languages.parquet`."""
    make = history_table if histories else feed_table
    for split, rows, count, seed in (("train", train_rows, files, 1), ("validation", validation_rows, 1, 2)):
        table = make(rows, seed)
        if split == "validation":  # later than the training rows
            served = pa.array(table.column("served_at_ms").to_numpy() + train_rows * 1000)
            table = table.set_column(table.column_names.index("served_at_ms"), "served_at_ms", served)
        (folder / split).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            start, end = rows * number // count, rows * (number + 1) // count
            part = table.slice(start, end - start)
            pq.write_table(part, folder / split / f"part-{number}.parquet", row_group_size=70)
    pq.write_table(pa.table({"value": list(LANGUAGES)}), folder / "languages.parquet")
    pq.write_table(pa.table({"place": [2, 0, 1], "value": ["ja", "pt", "en"]}), folder / "ordered.parquet")
    pq.write_table(pa.table({"word": ["en", "ja"], "row": [[1.0, 2.0], [3.0, 4.0]]}), folder / "pretrained.parquet")
    np.save(folder / "mask.npy", np.array([1, 0, 1]))
    (folder / "names.txt").write_text("sport\nnews\n")
    analysis = {"name": ["age", "followers"], "mean": [1.4, 2.1], "deviation": [1.3, 1.9]}
    pq.write_table(pa.table(analysis), folder / "analysis.parquet")
    return folder


def write_formats(folder: Path) -> Path:
    """`formats/`: a feed as TFRecord with its schema, CSV of scalars, and Arrow and JSON lines in folders by time."""
    table = feed_table(130).select(["age", "hour", "vector", "like"])
    (folder / "formats").mkdir()
    pq.write_table(table, folder / "formats" / "rows.parquet")
    for kind in ("arrow", "jsonl", "tfrecord"):
        convert_files([str(folder / "formats" / "rows.parquet")], folder / "formats", kind)
    for file, subfolder in (("rows.arrow", "date=20230405"), ("rows.jsonl", "2023/04/05/09")):
        (folder / "formats" / subfolder).mkdir(parents=True)
        (folder / "formats" / file).rename(folder / "formats" / subfolder / file)
    options = pyarrow.csv.WriteOptions(delimiter=";")
    pyarrow.csv.write_csv(table.drop_columns(["vector"]), folder / "formats" / "rows.csv", options)
    return folder


def feed_values(folder: Path, save_dir: Path) -> dict[str, Any]:
    """The configuration of a small run over a feed, as plain values that a test may change."""
    tower = {"kind": "mlp", "layer_sizes": [8], "batch_norm": {"affine": False}, "dropout": {"rate": 0.1}}
    return {
        "training": {
            "save_dir": str(save_dir),
            "num_train_steps": 12,
            "precision": "float32",
            "checkpoint_every_n": 4,
            "train_log_every_n": 3,
            "eval_log_every_n": 6,
        },
        "features": {
            "continuous": ["age", "followers"],
            "binary": ["in_network"],
            "discrete": {
                "hour": {"size": 24},
                "language": {"vocabulary": str(folder / "languages.parquet")},
            },
            "vectors": {"vector": 4},
            "ids": ["post_id"],
            "user": "user_id",
            "timestamp": "served_at_ms",
        },
        "model": {
            "embeddings": {"default": 4},
            "backbone": {
                "kind": "mask_net",
                "use_parallel": True,
                "mask_blocks": [
                    {"output_size": 8, "aggregation_size": 8},
                    {"output_size": 8, "reduction_factor": 1.0},
                ],
                "mlp": {"layer_sizes": [16], "final_layer_activation": True, "dropout": {"rate": 0.1}},
            },
            "sharing": {"kind": "share_all"},
            "tasks": {"like": {"tower": tower}, "share": {"tower": tower, "pos_weight": 2.0}},
        },
        "train_data": {
            "source": {"kind": "parquet", "inputs": str(folder / "train" / "*.parquet")},
            "global_batch_size": 64,
            "tasks": {"like": {}, "share": {}},
            "shuffle_window_rows": 150,
        },
        "validation_data": {"validation": {"source": {"inputs": str(folder / "validation" / "*.parquet")}}},
        "optimizer": {
            "backbone": {"kind": "linear_ramp_to_constant", "learning_rate": 0.01, "num_ramp_steps": 5},
            "towers": {"default": {"kind": "constant", "learning_rate": 0.01}},
        },
        "scoring": {"weights": {"like": 1.0, "share": 5.0}},
    }


def feed_config(folder: Path, save_dir: Path, **sections: dict[str, Any]) -> RecapConfig:
    """`feed_values` with some keys of its sections replaced, validated."""
    values = feed_values(folder, save_dir)
    for section, changes in sections.items():
        values[section] = {**values[section], **changes}
    return config_of(values)


def at_half(config: RecapConfig) -> RecapConfig:
    """`config` with towers that start at a probability of ½, whatever the labels."""
    values = config.model_dump()
    for task in values["model"]["tasks"].values():
        task["initial_rate"] = "none"
    return config_of(values)


class Recorder(Reporter):
    """A reporter that records its calls; `after_step` maps a step to a function to call after it."""

    def __init__(self, after_step: Mapping[int, Any] | None = None) -> None:
        self.after_step = dict(after_step or {})
        self.steps: list[int] = []
        self.losses: list[float] = []
        self.evaluated_at: list[tuple[int, str]] = []
        self.logged_at: list[int] = []
        self.messages: list[str] = []

    def start(self, save_dir: Path, step: int, steps: int, train_rows: int, epochs: float, setup: str) -> None:
        self.started_after, self.last_step = step, steps

    def advance(self, step: int, loss: float, examples: int, losses: Mapping[str, float], waited: float) -> None:
        self.steps.append(step)
        self.losses.append(loss)
        self.after_step.get(step, lambda: None)()

    def logged(self, record: Record) -> None:
        self.logged_at.append(int(record["step"] or 0))

    def evaluated(self, step: int, split: str, evaluation: Mapping[str, Mapping[str, float]]) -> None:
        self.evaluated_at.append((step, split))

    def say(self, text: str) -> None:
        self.messages.append(text)

    def stop(self) -> None:
        self.stopped = True
