"""A model directory: `config.yaml`, `weights.safetensors`, assets and a manifest; all that scoring needs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from recap.config.featurization import ZScoreLogConfig
from recap.config.load import describe_changes, differences, dump_config, load_config
from recap.config.node import Path as Path_
from recap.config.recap import RecapConfig
from recap.data.analysis import load_analysis
from recap.data.assets import (
    Assets,
    asset_path,
    load_assets,
    save_asset,
)
from recap.errors import CheckpointError, ConfigError
from recap.model.directory import MANIFEST, verify, writing
from recap.model.embeddings import load_pretrained
from recap.model.featurization import ZScoreLog
from recap.model.ranker import Ranker

CONFIG, WEIGHTS = "config.yaml", "weights.safetensors"
STATE = "state.json"
"""What a checkpoint, but no other model directory, holds besides."""
BEST: Literal["best"] = "best"
Step = int | Literal["best"]
"""A step of a run, or the one at which the metric that `training.watch` names was best."""


@dataclass(frozen=True)
class SavedModel:
    """What a model directory holds."""

    config: RecapConfig
    assets: Assets
    ranker: Ranker


def build_ranker(config: RecapConfig, assets: Assets) -> Ranker:
    """A ranker with fresh weights, drawn from torch's current random state."""
    return Ranker(config, assets)


def new_ranker(config: RecapConfig, assets: Assets) -> Ranker:
    """A ranker to train: fresh weights, and what is known of the data and of tables. Raises DataError."""
    ranker, featurization = build_ranker(config, assets), config.model.featurization
    if isinstance(featurization, ZScoreLogConfig):
        means, deviations = map(torch.from_numpy, load_analysis(featurization.analysis, config.features, assets))
        assert isinstance(ranker.inputs.featurization, ZScoreLog)
        ranker.inputs.featurization.set_analysis(means, deviations)
    load_pretrained(ranker.inputs.embeddings, config, assets)
    return ranker


def write_model(folder: Path, config: RecapConfig, assets: Assets, weights: Mapping[str, Tensor]) -> None:
    """Write the files of a model directory into `folder`; `weights` are contiguous. Raises RunError."""
    with writing(folder / CONFIG) as file:
        file.write_text(dump_config(config), encoding="utf-8")
    for name, values in assets.items():
        with writing(asset_path(folder, name)) as file:
            save_asset(values, file)
    with writing(folder / WEIGHTS) as file:
        save_file(dict(weights), file)


def open_model(folder: Path, overrides: Sequence[str] = (), set_files: Sequence[str] = ()) -> SavedModel:
    """Verify and open a model directory, `overrides` and `set_files` laid over its configuration.

    Raises CheckpointError where it is missing or damaged, ConfigError for overrides that cannot be.
    """
    verify_model(folder)
    config = load_config(folder / CONFIG, overrides, set_files, stored=True)
    if overrides or set_files:
        _refuse_other_weights(differences(load_config(folder / CONFIG, stored=True), config), folder)
    assets = load_assets(config.features, folder)
    ranker = build_ranker(config, assets)
    load_weights(ranker, folder)
    return SavedModel(config, assets, ranker)


def verify_model(folder: Path) -> None:
    """Raise CheckpointError, which says what else there is, unless `folder` is a whole model directory."""
    try:
        verify(folder)
    except CheckpointError as error:
        run = folder.parent.parent
        others = [step for step in checkpoint_steps(run) if checkpoint_path(run, step) != folder]
        known = f"; {run} has others, of step {', '.join(map(str, others))}" if others else ""
        raise CheckpointError(f"{error}; use another checkpoint or model{known}") from None


def _refuse_other_weights(changes: Mapping[Path_, tuple[Any, Any]], folder: Path) -> None:
    """Raise ConfigError for changes that would give the weights another meaning."""
    inputs = ("continuous", "binary", "discrete", "vectors", "histories")
    refused = {
        path: change
        for path, change in changes.items()
        if path[0] == "model" or (path[0] == "features" and (len(path) == 1 or path[1] in inputs))
    }
    if refused:
        lines = "\n".join(f"  {line}" for line in describe_changes(refused))
        raise ConfigError(f"{folder}: its weights were trained for other features or another model:\n{lines}")


def load_weights(ranker: Ranker, folder: Path) -> None:
    """Load the weights in `folder` into `ranker`. Raises CheckpointError that lists what does not fit."""
    found = load_file(folder / WEIGHTS)
    if shown := misfits(found, ranker.state_dict()):
        raise CheckpointError(
            f"{folder / WEIGHTS}: the weights are of another model; give it the features and model it was trained "
            f"with:\n  {shown}"
        )
    ranker.load_state_dict(found)


def misfits(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """In which names and shapes weights differ from those of a model, the first ten a line each; "" if in none."""
    problems = [f"{name} is missing" for name in expected if name not in found]
    problems += [f"{name} has no place in this model" for name in found if name not in expected]
    problems += [
        f"{name} is {_shape(found[name])}, this model needs {_shape(tensor)}"
        for name, tensor in expected.items()
        if name in found and found[name].shape != tensor.shape
    ]
    return "\n  ".join(problems[:10]) + (f"\n  and {len(problems) - 10} more" if len(problems) > 10 else "")


def checkpoint_path(run: Path, step: int) -> Path:
    """Where the checkpoint of `step` is, or will be."""
    return run / "checkpoints" / f"step_{step:08d}"


def checkpoint_steps(run: Path) -> list[int]:
    """The steps whose checkpoints a run holds, rising."""
    found = (path.name.removeprefix("step_") for path in (run / "checkpoints").glob("step_*") if path.is_dir())
    return sorted(int(name) for name in found if name.isdigit())


def find_model_dir(path: Path, step: Step | None = None) -> Path:
    """The model directory that `path` means: itself, or a checkpoint of the run it is, the latest if no `step`.

    `step` "best": the one whose watched metric was best (`training.watch`).

    Raises CheckpointError where there is none.
    """
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such folder; give a run (its training.save_dir), a checkpoint or a model")
    if (path / MANIFEST).exists():
        if step is not None:
            raise CheckpointError(f"{path}: is a model, not a run, so it has no step {step}; give the run's folder")
        return path
    steps = checkpoint_steps(path)
    if not steps:
        raise CheckpointError(f"{path}: holds no checkpoint; train first with 'recap train'")
    if step == BEST:
        step = _best_step(path)
    if step is not None and step not in steps:
        raise CheckpointError(f"{path}: no checkpoint of step {step}; there are {', '.join(map(str, steps))}")
    return checkpoint_path(path, steps[-1] if step is None else step)


def best_model_dir(run: Path) -> Path | None:
    """The checkpoint at which the watched metric of `run` was best, if one was watched and ever defined."""
    step = _known_best(run)
    return None if step is None else checkpoint_path(run, step)


def _best_step(run: Path) -> int:
    step = _known_best(run)
    if step is None:
        raise CheckpointError(
            f"{run}: no checkpoint is the best, since no metric was watched; give a step, or train with training.watch"
        )
    return step


def _known_best(run: Path) -> int | None:
    """The best step, as the latest checkpoint of `run` knows it."""
    state = checkpoint_path(run, checkpoint_steps(run)[-1]) / STATE
    try:
        found = json.loads(state.read_text())["best_step"]
    except (OSError, ValueError, KeyError, TypeError):
        raise CheckpointError(f"{state}: missing or damaged; give a step instead of 'best'") from None
    return found if isinstance(found, int) else None


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "a scalar"
