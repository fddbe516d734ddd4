"""Checkpoints of a run: a model directory plus optimizer and run state, whole or absent, each verified when opened."""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from recap.config.base import dotted
from recap.config.file.diff import describe_changes, differences
from recap.config.file.load import STORED, load_config
from recap.config.recap import RecapConfig
from recap.data.encoding.assets import Assets, load_assets
from recap.errors import CheckpointError, RunError
from recap.model.directory import WEIGHTS, SavedModel, load_weights, write_model
from recap.reporting import Say
from recap.runs import STATE, Run
from recap.storage import clear_leftovers, remove_directory, set_aside, verify, whole_directory, writing
from recap.training.average import WeightAverage
from recap.training.balancing import Balancing
from recap.training.loss_scale import LossScaleState
from recap.training.optimizer.scheduled import ScheduledOptimizer
from recap.training.watch import WatchState

OPTIMIZER = "optimizer.safetensors"
BALANCING = "balancing.safetensors"
"""Where the balancing of tasks learns something."""
RAW_WEIGHTS = "raw_weights.safetensors"
"""What training goes on with, where the weights of the model are averages."""


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
    skipped_steps: int = 0
    """Steps whose losses or gradients were not finite, and which moved nothing."""
    rolled_back: list[list[int]] = field(default_factory=list)
    """[start, end) in the line of training rows of each batch that made the run go back; it is passed over."""
    best_step: int | None = None
    """The step at which the watched metric was best; its checkpoint is kept."""
    watch: WatchState = field(default_factory=WatchState)
    """What is remembered of the watched metric."""
    loss_scale: LossScaleState = field(default_factory=LossScaleState)
    """The scale of losses; it moves under float16 alone."""
    finished: bool = False
    """Whether nothing is left to do; who follows the run need not wait for another checkpoint."""


class Checkpoints:
    """Writes and restores the checkpoints of a run.

    `save` copies what is to be saved, and one thread writes it while training goes on; the next one waits for it.
    """

    def __init__(self, save_dir: Path) -> None:
        self.run = Run(save_dir)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="recap-checkpoint")
        self._writing: Future[None] | None = None
        self._copies: dict[str, dict[str, Tensor]] = {}  # by file, used again: new memory is slower than copying

    def latest_or_none(self) -> Path | None:
        """The latest checkpoint, if there is one; waits for one that is being written."""
        if self._writing is not None:
            self._writing.exception()  # waits; it is told at the next save
        return self.run.latest

    def latest_whole_step(self, say: Say) -> int | None:
        """The step of the latest whole checkpoint, None without any; damaged ones after it are set aside and told.

        Clears what a killed process left. Raises CheckpointError where all are damaged; they stay where they are.
        """
        clear_leftovers(self.run.checkpoints_folder)
        damaged: list[tuple[Path, CheckpointError]] = []
        for step, path in reversed(self.run.checkpoints.items()):
            try:
                verify(path)
            except CheckpointError as error:
                damaged.append((path, error))
                continue
            for each, found in damaged:
                say(f"{found}; set aside as {set_aside(each).name}, the run goes on from {path.name}")
            return step
        if not damaged:
            return None
        raise CheckpointError(
            "\n".join(str(error) for _, error in damaged)
            + f"\n{self.run.path}: no valid checkpoint is left. Restore one from a copy, or start again with another "
            "training.save_dir"
        )

    def save(
        self,
        model: SavedModel,
        optimizer: ScheduledOptimizer,
        balancing: Balancing,
        average: WeightAverage,
        state: RunState,
    ) -> None:
        """Take the checkpoint of `state.step`, which is written while training goes on.

        Then the oldest beyond `checkpoint_max_to_keep` are dropped, but the best. Raises RunError if the checkpoint
        before could not be written.
        """
        self.wait()
        with average.applied():
            copies = {WEIGHTS: self._copied(WEIGHTS, model.ranker.state_dict())}
        copies[OPTIMIZER] = self._copied(OPTIMIZER, optimizer.state_dict())
        for file, state_dict in ((BALANCING, balancing.state_dict()), (RAW_WEIGHTS, average.state_dict())):
            if state_dict:
                copies[file] = self._copied(file, state_dict)
        self._writing = self._writer.submit(self._write, model.config, model.assets, copies, deepcopy(state))

    def wait(self) -> None:
        """Until what was saved is on disk. Raises RunError if it could not be written."""
        written, self._writing = self._writing, None
        if written is not None:
            written.result()

    def close(self) -> None:
        """Let the writer end; nothing can be saved any more."""
        self._writer.shutdown()

    def restore(
        self,
        folder: Path,
        model: SavedModel,
        optimizer: ScheduledOptimizer,
        balancing: Balancing,
        average: WeightAverage,
    ) -> RunState:
        """Bring back the checkpoint in `folder`, which is whole. Raises CheckpointError if it is of another model."""
        load_weights(model.ranker, folder)
        if (folder / RAW_WEIGHTS).exists():
            average.load_state_dict(load_file(folder / RAW_WEIGHTS))
        optimizer.load_state_dict(load_file(folder / OPTIMIZER))
        if (folder / BALANCING).exists():
            balancing.load_state_dict(load_file(folder / BALANCING))
        found = json.loads((folder / STATE).read_text())
        scale = LossScaleState(**found.get("loss_scale", {}))  # which no older checkpoint has
        return RunState(**found | {"watch": WatchState(**found["watch"]), "loss_scale": scale})

    def _copied(self, file: str, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The tensors as they are now, in memory of their own."""
        before, copies = self._copies.get(file, {}), dict[str, Tensor]()
        for name, tensor in tensors.items():
            copy = before.get(name)
            if copy is None or copy.shape != tensor.shape or copy.dtype != tensor.dtype:
                copy = torch.empty_like(tensor, device="cpu", memory_format=torch.contiguous_format)
            copies[name] = copy.copy_(tensor)
        self._copies[file] = copies
        return copies

    def _write(
        self, config: RecapConfig, assets: Assets, tensors: Mapping[str, Mapping[str, Tensor]], state: RunState
    ) -> None:
        """What the thread does. Raises RunError that says what is left."""
        try:
            with whole_directory(self.run.checkpoint_path(state.step)) as folder:
                write_model(folder, config, assets, tensors[WEIGHTS])
                for name, of_file in tensors.items():
                    if name != WEIGHTS:
                        with writing(folder / name) as file:
                            save_file(dict(of_file), file)
                with writing(folder / STATE) as file:
                    file.write_text(json.dumps(asdict(state), indent=1) + "\n")
            keep = config.training.checkpoint_max_to_keep
            for step in list(self.run.checkpoints)[:-keep] if keep else []:
                if step != state.best_step:
                    remove_directory(self.run.checkpoint_path(step))
        except (RunError, OSError) as error:
            raise RunError(
                f"{error}\nsaving step {state.step} failed; the last valid checkpoint is "
                f"{self.run.latest or 'none'}. Fix the disk or free space on it, then run the same command again to "
                "resume"
            ) from error


def check_resumable(checkpoint: Path, config: RecapConfig, assets: Assets) -> list[str]:
    """What differs from the configuration a run began with, a line each, when a resumed run may differ in that.

    Raises CheckpointError, which lists these and those that need a new run.
    """
    changes = differences(load_config(checkpoint / STORED, stored=True), config)
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
    "training.initial_weights",
    "training.checkpoint_every_n",
    "training.checkpoint_max_to_keep",
    "training.train_log_every_n",
    "training.log_norms",
    "training.num_eval_steps",
    "training.eval_log_every_n",
    "training.eval_timeout_in_s",
    "training.watch.stop_after",
    "training.non_finite",
    "training.preemption_grace_seconds",
    "training.mlflow",
    "train_data.source",
    "train_data.num_epochs",
    "train_data.on_bad_data",
    "train_data.readers",
    "train_data.cache",
    "validation_data",
    "which_metrics",
    "metrics",
    "strata",
    "scoring",
}
"""What may change when a run is resumed, since no step depends on it (moved data is known by its fingerprint)."""
