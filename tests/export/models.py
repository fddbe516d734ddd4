"""A model with every kind of feature, which nothing trained, as a model directory."""

from pathlib import Path
from typing import Any

import torch
from model.kinds import BACKBONES, ENCODERS, HISTORY, OTHERS, TOWERS
from model.rankers import make_fitted
from support import feed_values

from recap.config.file.load import config_of
from recap.config.recap import RecapConfig
from recap.data.encoding.assets import load_assets
from recap.model.directory import CALIBRATION, SavedModel, new_ranker, write_model
from recap.storage import atomic_directory

FEATURES: dict[str, Any] = {
    "continuous": [
        "age",
        {"name": "followers", "dtype": "bfloat16"},
        {"name": "rounded", "of": {"column": "vector", "index": 1}, "masked_mantissa_bits": 12},
    ],
    "binary": ["in_network"],
    "discrete": {
        "hour": {"size": 24},
        "language": {"vocabulary": "languages.parquet"},
        "post": {"hash": {"buckets": 30, "seed": 3}},
        "topics": {"size": 5, "length": 2},
        "hashed_language": {"hash": {"buckets": 9, "hashes": 1}, "of": {"column": "words", "index": 0}},
    },
    "vectors": {"vector": 4},
    "histories": {
        "watched": HISTORY,
        "languages": {"ids": {"column": "watched_language", "table": "language"}, "max_length": 1, "keep": "first"},
    },
}


def all_features(feed: Path) -> RecapConfig:
    """A configuration with every kind of feature, over the columns of `history_table`."""
    values = feed_values(feed, feed / "run")
    values["features"] |= FEATURES
    values["features"]["discrete"]["language"] = {"vocabulary": str(feed / "languages.parquet")}
    values["model"]["histories"] = {
        "watched": {"encoder": {"kind": "transformer", "target": "post", "width": 8, "num_heads": 2}},
        "languages": {"encoder": {"kind": "pooling"}},
    }
    share = {"tower": values["model"]["tasks"]["share"]["tower"], "objective": {"kind": "regression"}}
    values["model"]["tasks"]["share"] = share
    return config_of(values)


def many_parts(feed: Path) -> RecapConfig:
    """`all_features` with parts that differ most in how they compute: one model, for what takes a minute a model."""
    values = all_features(feed).model_dump(mode="json")
    values["features"]["histories"]["seen"] = {"ids": HISTORY["ids"], "max_length": 5}
    values["model"] |= {
        "featurization": {"kind": "quantile", "quantiles": 9, "missing": "learned"},
        **OTHERS["auto_dis"],
        "histories": {
            "watched": {"encoder": {**ENCODERS["hstu_interleaved"], "num_layers": 1}},
            "seen": {"encoder": {**ENCODERS["one_trans"], "num_layers": 2, "retained_events": [3]}},
            "languages": {"encoder": {"kind": "pooling"}},
        },
        "backbone": BACKBONES["dcn_v3"],
        "tasks": {
            "like": {"tower": {**TOWERS["qnn"], "num_layers": 1}},
            "share": {"tower": TOWERS["mlp_ensemble"], "objective": {"kind": "regression"}},
        },
    }
    return config_of(values)


def write(config: RecapConfig, folder: Path) -> SavedModel:
    """Write a model with random weights and a fitted calibration, and return it."""
    torch.manual_seed(0)
    assets = load_assets(config.features)
    ranker, fitted = new_ranker(config, assets), make_fitted(config)
    with atomic_directory(folder) as temporary:
        write_model(temporary, config, assets, {name: value.clone() for name, value in ranker.state_dict().items()})
        (temporary / CALIBRATION).write_text(fitted.model_dump_json())
    return SavedModel(config, assets, ranker, fitted)
