"""Every kind of part a model can have, small, and rankers made of them: what the shared behaviour suite runs over.

Whoever adds a kind adds it here.
"""

from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from support import feed_table, feed_values

from recap.config.load import config_of
from recap.config.recap import RecapConfig
from recap.data.batch import Batch
from recap.data.place import Place
from recap.data.schema import RowEncoder
from recap.model.ranker import Ranker

BACKBONES: dict[str, dict[str, Any]] = {
    "mlp": {"kind": "mlp", "layer_sizes": [16, 8], "batch_norm": {}, "dropout": {"rate": 0.1}},
    "mask_net_parallel": {
        "kind": "mask_net",
        "use_parallel": True,
        "mask_blocks": [
            {"output_size": 8, "aggregation_size": 8},
            {"output_size": 4, "reduction_factor": 0.5},
        ],
    },
    "mask_net_stacked_with_mlp": {
        "kind": "mask_net",
        "mask_blocks": [
            {"output_size": 8, "aggregation_size": 8, "input_layer_norm": True, "relu": True},
            {"output_size": 6, "reduction_factor": 0.5},
        ],
        "mlp": {"layer_sizes": [12], "final_layer_activation": True},
    },
}
TOWERS: dict[str, dict[str, Any]] = {
    "mlp": {"kind": "mlp", "layer_sizes": [8], "batch_norm": {"affine": False}, "dropout": {"rate": 0.1}},
    "mask_net": BACKBONES["mask_net_stacked_with_mlp"],
}
SHARINGS: dict[str, dict[str, Any]] = {
    "share_all": {"kind": "share_all"},
    "share_partial": {"kind": "share_partial"},
}
"""Those with a backbone."""
OTHERS: dict[str, dict[str, Any]] = {
    "regressions": {
        "tasks": {
            "like": {"tower": TOWERS["mlp"], "objective": {"kind": "regression", "transform": "log1p"}},
            "share": {"tower": TOWERS["mlp"], "objective": {"kind": "regression"}, "affine_map": {}},
        }
    },
    "a_regression_beside_a_binary_task": {
        "tasks": {
            "like": {"tower": TOWERS["mlp"]},
            "share": {"tower": TOWERS["mlp"], "objective": {"kind": "regression", "loss": {"kind": "mae"}}},
        }
    },
}
"""What else a model can say, by name: laid over the section `model` of `mlp-share_all`."""

CASES: dict[str, dict[str, Any]] = {
    **{f"{backbone}-{sharing}": {} for backbone in BACKBONES for sharing in SHARINGS},
    **{f"{tower}-share_none": {} for tower in TOWERS},
    **OTHERS,
}


def make_config(case: str) -> RecapConfig:
    """The configuration of a case, over the columns of a feed."""
    values = feed_values(Path("feed"), Path("run"))
    first, _, sharing = ("mlp", "", "share_all") if case in OTHERS else case.partition("-")
    shares = sharing in SHARINGS
    tower = TOWERS["mlp"] if shares else TOWERS[first]
    values["model"] |= {
        "backbone": BACKBONES[first] if shares else None,
        "sharing": SHARINGS[sharing] if shares else {"kind": sharing},
        "tasks": {"like": {"tower": tower, "affine_map": {}}, "share": {"tower": tower, "pos_weight": 2.0}},
        **OTHERS.get(case, {}),
    }
    return config_of(values)


def make_batch(config: RecapConfig, rows: int = 40, seed: int = 0) -> Batch:
    """Rows of a feed as `config` reads them."""
    encoder = RowEncoder(config.features, {"language": pa.array(["en", "ja"])}, config.tasks, config.train_data.labels)
    return encoder.encode(feed_table(rows, seed), Place("rows"))


def make_ranker(config: RecapConfig, seed: int = 0) -> Ranker:
    """A ranker with fresh weights."""
    torch.manual_seed(seed)
    return Ranker(config, {"language": pa.array(["en", "ja"])})
