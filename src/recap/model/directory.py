"""Writes, verifies and opens model directories, which hold everything that scoring needs.

Those are `config.yaml`, `weights.safetensors`, `assets/` and a manifest with the checksum of each file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from recap.config.base import KeyPath, ShapesWeights
from recap.config.featurization import ZScoreLogConfig
from recap.config.file.diff import describe_changes, differences
from recap.config.file.keys import is_below_mark
from recap.config.file.load import STORED, dump_config, load_config
from recap.config.recap import RecapConfig
from recap.data.encoding.analysis import load_analysis
from recap.data.encoding.assets import Assets, asset_path, load_assets, save_asset
from recap.errors import CheckpointError, ConfigError
from recap.model.inputs.featurization import ZScoreLog
from recap.model.inputs.tables import load_pretrained
from recap.model.ranker import Ranker
from recap.storage import MANIFEST, verify, writing

WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class SavedModel:
    """The content of a model directory."""

    config: RecapConfig
    assets: Assets
    ranker: Ranker


def build_ranker(config: RecapConfig, assets: Assets) -> Ranker:
    """A ranker with random weights, drawn from torch's current random state."""
    return Ranker(config, assets)


def new_ranker(config: RecapConfig, assets: Assets) -> Ranker:
    """A ranker to train: random weights, the analysis of the data, pretrained rows of tables. Raises DataError."""
    ranker, featurization = build_ranker(config, assets), config.model.featurization
    if isinstance(featurization, ZScoreLogConfig):
        means, deviations = map(torch.from_numpy, load_analysis(featurization.analysis, config.features, assets))
        assert isinstance(ranker.inputs.featurization, ZScoreLog)
        ranker.inputs.featurization.set_analysis(means, deviations)
    load_pretrained(ranker.inputs.embeddings, config, assets)
    return ranker


def write_model(folder: Path, config: RecapConfig, assets: Assets, weights: Mapping[str, Tensor]) -> None:
    """Write the files of a model directory into `folder`; `weights` are contiguous. Raises RunError."""
    with writing(folder / STORED) as file:
        file.write_text(dump_config(config), encoding="utf-8")
    for name, values in assets.items():
        with writing(asset_path(folder, name)) as file:
            save_asset(values, file)
    with writing(folder / WEIGHTS) as file:
        save_file(dict(weights), file)


def open_model(folder: Path, overrides: Sequence[str] = (), set_files: Sequence[str] = ()) -> SavedModel:
    """Verify and open a model directory, with `overrides` and `set_files` merged over its configuration.

    Raises CheckpointError if it is missing or damaged, ConfigError for overrides of anything its weights depend on.
    """
    verify_model(folder)
    config = load_config(folder / STORED, overrides, set_files, stored=True)
    if overrides or set_files:
        _refuse_other_weights(differences(load_config(folder / STORED, stored=True), config), folder)
    assets = load_assets(config.features, folder)
    ranker = build_ranker(config, assets)
    load_weights(ranker, folder)
    return SavedModel(config, assets, ranker)


def verify_model(folder: Path) -> None:
    """Raise CheckpointError, which lists the models beside it, unless `folder` is a complete model directory."""
    try:
        verify(folder)
    except CheckpointError as error:
        manifests = folder.parent.glob(f"*/{MANIFEST}") if folder.parent.is_dir() else ()
        others = sorted(manifest.parent.name for manifest in manifests if manifest.parent != folder)
        known = f"; {folder.parent} also holds {', '.join(others)}" if others else ""
        raise CheckpointError(f"{error}; use another checkpoint or model{known}") from None


def _refuse_other_weights(changes: Mapping[KeyPath, tuple[Any, Any]], folder: Path) -> None:
    """Raise ConfigError for changes to the model or its inputs, which the weights depend on."""
    refused = {path: change for path, change in changes.items() if is_below_mark(RecapConfig, path, ShapesWeights())}
    if refused:
        lines = "\n".join(f"  {line}" for line in describe_changes(refused))
        raise ConfigError(
            f"{folder}: these overrides change the features or the model that its weights were trained with; leave "
            f"them out:\n{lines}"
        )


def load_weights(ranker: Ranker, folder: Path) -> None:
    """Load the weights in `folder` into `ranker`. Raises CheckpointError, which lists the mismatches."""
    weights = load_file(folder / WEIGHTS)
    if mismatches := weight_mismatches(weights, ranker.state_dict()):
        raise CheckpointError(
            f"{folder / WEIGHTS}: the weights belong to another model; use the features and model they were trained "
            f"with:\n  {mismatches}"
        )
    ranker.load_state_dict(weights)


def weight_mismatches(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """The weights whose name or shape differs from `expected`, one per line, at most ten; "" if all match."""
    problems = [f"{name} is missing" for name in expected if name not in weights]
    problems += [f"{name} is not in this model" for name in weights if name not in expected]
    problems += [
        f"{name} is {_shape(weights[name])}, this model needs {_shape(tensor)}"
        for name, tensor in expected.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    return "\n  ".join(problems[:10]) + (f"\n  and {len(problems) - 10} more" if len(problems) > 10 else "")


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "a scalar"
