"""Configurations, batches, rankers and calibrations of the cases in `kinds.py`."""

from itertools import cycle
from pathlib import Path

import pyarrow as pa
import torch
from model.kinds import BACKBONES, COMBINED, FEATURES, OTHERS, SHARINGS, TOWERS
from support import feed_values, history_table

from recap.config.file.load import config_of
from recap.config.recap import RecapConfig
from recap.data.batch import Batch
from recap.data.encoding.encoder import RowEncoder
from recap.data.encoding.labels import LabelEncoder
from recap.data.formats.location import Location
from recap.model.calibration import (
    AffineMap,
    FittedCalibration,
    FittedTask,
    IsotonicMap,
    Offset,
    sampling_ratios,
)
from recap.model.ranker import Ranker


def make_config(case: str) -> RecapConfig:
    """The configuration of a case, over the columns of a feed."""
    values = feed_values(Path("feed"), Path("run"))
    others = OTHERS | COMBINED
    first, _, sharing = ("mlp", "", "share_all") if case in others else case.partition("-")
    shares = sharing in SHARINGS
    tower = TOWERS["mlp"] if shares else TOWERS[first]
    values["model"] |= {
        "backbone": BACKBONES[first] if shares else None,
        "sharing": SHARINGS[sharing] if shares else {"kind": sharing},
        "tasks": {"like": {"tower": tower, "affine_map": {}}, "share": {"tower": tower, "pos_weight": 2.0}},
        **others.get(case, {}),
    }
    if values["model"]["sharing"]["kind"] == "share_none":
        values["model"]["backbone"] = None
    if values["model"]["sharing"]["kind"] in ("stem", "deep_ensemble"):
        values["model"]["embeddings"] = {"default": 6}  # three parts of two
    values["features"] |= FEATURES.get(case, {})
    tasks = values["model"]["tasks"]
    if tasks.keys() != {"like", "share"}:
        values["train_data"]["tasks"] = {task: {} for task in tasks}
        values["scoring"]["weights"] = dict.fromkeys(tasks, 1.0)
    return config_of(values)


def make_batch(config: RecapConfig, rows: int = 40, seed: int = 0) -> Batch:
    """Rows of a feed, encoded for `config`; a task that the feed lacks has the labels of `like`."""
    table = history_table(rows, seed)
    for task in config.tasks:
        if task not in table.column_names:
            table = table.append_column(task, table["like"])
    compares = any(task.ranking_losses for task in config.model.tasks.values())
    labels = LabelEncoder(config.tasks, config.train_data.labels, user=config.features.user if compares else None)
    encoder = RowEncoder(config.features, {"language": pa.array(["en", "ja"])}, labels)
    return encoder.encode(table, Location("rows"))


def make_ranker(config: RecapConfig, seed: int = 0) -> Ranker:
    """A ranker with random weights."""
    torch.manual_seed(seed)
    return Ranker(config, {"language": pa.array(["en", "ja"])})


def make_fitted(config: RecapConfig) -> FittedCalibration:
    """A fitted calibration of every binary task, with all that one may have."""
    offsets = tuple(Offset(value=code - 1, code=code, offset=0.1 * code, positives=20) for code in (2, 7))
    maps = (AffineMap(slope=1.5, intercept=-0.5), IsotonicMap(knots=(-2.0, 0.0, 0.3), values=(-3.0, 0.5, 0.6)))
    tasks = {
        task: FittedTask(map=part, positives=100, offsets=offsets)
        for task, part in zip(config.tasks, cycle(maps), strict=False)
        if task not in config.regressions
    }
    return FittedCalibration(
        split="validation", data=[], rows=1000, sampling=sampling_ratios(config), by="hour", tasks=tasks
    )
