"""Checkpoints of a run: a model directory plus optimizer and run state, whole or absent, each verified when opened."""

import fcntl
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from recap.config.load import describe_changes, differences, load_config
from recap.config.node import dotted
from recap.config.recap import RecapConfig
from recap.data.assets import Assets, load_assets
from recap.errors import CheckpointError, InputError
from recap.model.directory import verify, whole_directory
from recap.model.saved import (
    CONFIG,
    STATE,
    SavedModel,
    checkpoint_path,
    checkpoint_steps,
    load_weights,
    write_model,
)
from recap.training.balancing import Balancing
from recap.training.optimizer import ScheduledOptimizer
from recap.training.watch import WatchState

OPTIMIZER = "optimizer.safetensors"
BALANCING = "balancing.safetensors"
"""Where the balancing of tasks learns something."""


@dataclass
class RunState:
    """What a run remembers besides weights and moments: positions and sums, never rows."""

    step: int = 0
    """Finished optimizer steps."""
    evaluated_step: int = 0
    """The last step that was evaluated."""
    stream: dict[str, Any] = field(default_factory=dict)
    """The place in the training data."""
    loss_sums: dict[str, float] = field(default_factory=dict)
    """Per task, losses summed over the steps since the last logged one."""
    loss_steps: int = 0
    """How many steps those are."""
    best_step: int | None = None
    """The step at which the watched metric was best; its checkpoint is kept."""
    watch: WatchState = field(default_factory=WatchState)
    """What is remembered of the watched metric."""


@contextmanager
def locked(save_dir: Path) -> Iterator[None]:
    """Hold the run in `save_dir` for this process alone; the lock goes with the process, however it ends."""
    try:
        save_dir.mkdir(parents=True, exist_ok=True)
        lock = (save_dir / ".lock").open("w")
    except OSError as error:
        raise InputError(f"training.save_dir: {save_dir} cannot be written ({error.strerror})") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CheckpointError(
                f"{save_dir}: another process is training into it; wait for it, or choose another training.save_dir"
            ) from None
        yield


class Checkpoints:
    """Writes and restores the checkpoints of a run."""

    def __init__(self, save_dir: Path) -> None:
        self.run = save_dir

    def latest_or_none(self) -> Path | None:
        """The latest checkpoint, if there is one."""
        steps = checkpoint_steps(self.run)
        return checkpoint_path(self.run, steps[-1]) if steps else None

    def save(self, model: SavedModel, optimizer: ScheduledOptimizer, balancing: Balancing, state: RunState) -> None:
        """Write the checkpoint of `state.step`, then drop the oldest beyond `checkpoint_max_to_keep`, but the best."""
        with whole_directory(checkpoint_path(self.run, state.step)) as folder:
            write_model(folder, model)
            save_file(optimizer.state_dict(), folder / OPTIMIZER)
            if balanced := balancing.state_dict():
                save_file(balanced, folder / BALANCING)
            (folder / STATE).write_text(json.dumps(asdict(state), indent=1) + "\n")
        keep = model.config.training.checkpoint_max_to_keep
        for step in checkpoint_steps(self.run)[:-keep] if keep else []:
            if step != state.best_step:
                shutil.rmtree(checkpoint_path(self.run, step))

    def restore(self, folder: Path, model: SavedModel, optimizer: ScheduledOptimizer, balancing: Balancing) -> RunState:
        """Bring back the checkpoint in `folder`. Raises CheckpointError that names what is damaged."""
        try:
            verify(folder)
        except CheckpointError as error:
            raise CheckpointError(f"{error} (delete {folder} to resume from the one before it)") from None
        load_weights(model.ranker, folder)
        optimizer.load_state_dict(load_file(folder / OPTIMIZER))
        if (folder / BALANCING).exists():
            balancing.load_state_dict(load_file(folder / BALANCING))
        found = json.loads((folder / STATE).read_text())
        return RunState(**found | {"watch": WatchState(**found["watch"])})


def check_resumable(checkpoint: Path, config: RecapConfig, assets: Assets) -> list[str]:
    """What differs from the configuration a run began with, a line each, when a resumed run may differ in that.

    Raises CheckpointError, which lists these and those that need a new run.
    """
    changes = differences(load_config(checkpoint / CONFIG, stored=True), config)
    free = {path: change for path, change in changes.items() if _is_free(path)}
    allowed = describe_changes(free)
    refused = describe_changes({path: change for path, change in changes.items() if path not in free})
    before = load_assets(config.features, checkpoint) if not refused else {}
    refused += [
        f"{dotted(config.features.place_of(name))}.vocabulary: its strings changed"
        if name in config.features.code_spaces
        else f"features: the mask of {name!r} keeps other values"
        for name, values in before.items()
        if not values.equals(assets[name])
    ]
    if refused:
        lines = [f"{checkpoint}: this run began with another configuration. These changes need a new run:"]
        lines += [f"  {change}" for change in refused]
        lines += (
            ["These are allowed in a run that is resumed:", *(f"  {change}" for change in allowed)] if allowed else []
        )
        lines += ["Undo the former, or start a new run with another training.save_dir."]
        raise CheckpointError("\n".join(lines))
    return allowed


def _is_free(path: Sequence[str | int]) -> bool:
    return any(".".join(map(str, path[:length])) in FREE for length in (1, 2, 3))


FREE = {
    "training.save_dir",
    "training.num_train_steps",
    "training.initial_checkpoint_dir",
    "training.checkpoint_every_n",
    "training.checkpoint_max_to_keep",
    "training.train_log_every_n",
    "training.num_eval_steps",
    "training.eval_log_every_n",
    "training.eval_timeout_in_s",
    "training.watch.stop_after",
    "training.mlflow",
    "train_data.source",
    "train_data.num_epochs",
    "train_data.on_bad_data",
    "train_data.readers",
    "train_data.cache",
    "validation_data",
    "which_metrics",
    "strata",
    "scoring",
}
"""What may change when a run is resumed, since no step depends on it (moved data is known by its fingerprint)."""
