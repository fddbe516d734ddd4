"""Checkpoints of a run: a model directory plus the state of training, written atomically, verified when opened."""

import json
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from recap.config.base import FreeOnResume, KeyPath, dotted
from recap.config.file.diff import describe_changes, differences
from recap.config.file.keys import is_below_mark
from recap.config.file.load import STORED, load_stored_beside
from recap.config.recap import RecapConfig
from recap.data.encoding.assets import Assets, load_assets
from recap.distributed import ONE_RANK, Ranks
from recap.errors import ChangedRun, CheckpointError, LostRank, RunError
from recap.model.directory import (
    MODEL_FILES,
    SHARDS,
    SHARDS_INDEX,
    STATISTICS,
    check_hashes,
    read_statistics,
    write_inputs,
)
from recap.reporting import Say
from recap.runs import STATE, Run
from recap.storage import (
    atomic_directory,
    check_format,
    clear_leftovers,
    read_manifest,
    remove_directory,
    set_aside,
    verify,
    writing,
)
from recap.training.sharded_tables.checkpoints import JointWriter, Shards, fill_shards, is_sharded
from recap.training.sharded_tables.shards import BlockFiles, StoredTensor, index_text, read_index, write_whole
from recap.training.state import Stateful, TrainState

TOP_LEVEL = ("progress", "log")
"""Parts whose values are at the top level of `state.json`; those of other parts are under their names."""
WEIGHTS_PART = "weights"
"""The part that is stored as the model directory."""
STATISTICS_PART = "statistics"
"""The part that is `statistics.json` of the model directory."""


@dataclass(frozen=True)
class _Snapshot:
    """A copy of the state of a run at one step, written while training continues."""

    step: int
    best_step: int | None
    tensors: Mapping[str, Mapping[str, Tensor]]
    """Part → its whole tensors; empty on other ranks than the first."""
    values: Mapping[str, Any]
    """The content of `state.json`."""
    shards: Shards
    copies: Mapping[str, Tensor]
    """The shards of this rank by key."""


class Checkpoints:
    """Writes and restores the checkpoints of a run.

    `save` copies the state, and a thread writes the copy while training continues; the next `save` waits for it. Rank 0
    writes, and every rank its part of sharded tables.
    """

    def __init__(self, config: RecapConfig, assets: Assets, ranks: Ranks = ONE_RANK) -> None:
        self.config, self.assets, self.ranks = config, assets, ranks
        self.run = Run(Path(config.training.save_dir))
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="recap-checkpoint")
        self._writing: Future[None] | None = None
        self._copies: dict[str, dict[str, Tensor]] = {}  # by part; reused, since allocating is slower than copying
        self._joint: JointWriter | None = None

    def latest(self) -> Path | None:
        """The latest checkpoint, None before the first; waits for one that is being written."""
        if self._writing is not None:
            self._writing.exception()  # waits; the next save raises its error
        return self.run.latest

    def latest_valid_step(self, say: Say) -> int | None:
        """The step of the latest valid checkpoint, None without any; sets later, damaged ones aside.

        Deletes what a killed process left. Raises CheckpointError if all are damaged, or a later recap
        wrote one; then none is moved.
        """
        clear_leftovers(self.run.checkpoints_folder)
        damaged: list[tuple[Path, CheckpointError]] = []
        for step, path in reversed(self.run.checkpoints.items()):
            try:
                manifest = verify(path, *MODEL_FILES, STATE)
            except CheckpointError as error:
                damaged.append((path, error))
                continue
            check_format(path, manifest)
            for bad, problem in damaged:
                say(f"{problem}; set aside as {set_aside(bad).name}, resuming from {path.name}")
            return step
        if not damaged:
            return None
        raise CheckpointError(
            "\n".join(str(error) for _, error in damaged)
            + f"\n{self.run.path}: no valid checkpoint is left. Restore one from a backup, or start a new run with "
            "another training.save_dir"
        )

    def save(self, state: TrainState) -> None:
        """Copy the state and start to write it as the checkpoint of its step. Every rank must call it.

        Once written, the oldest checkpoints beyond `checkpoint_max_to_keep` are deleted, except the best. Raises
        RunError if the previous checkpoint could not be written.
        """
        self.wait()
        if not self.ranks.is_first and self.config.training.sharded_tables is None:
            return
        content = state.state_dict()
        shards = Shards.of(content)
        if shards.index and self._joint is None:
            self._joint = JointWriter(self.ranks)
        tensors: dict[str, Mapping[str, Tensor]] = {}
        values: dict[str, Any] = {}
        for name, part in content.items() if self.ranks.is_first else ():
            if of_part := {key: value for key, value in part.items() if _is_whole(value)}:
                tensors[name] = self._copied(name, of_part)
            if plain := {key: deepcopy(value) for key, value in part.items() if not isinstance(value, Tensor)}:
                values |= plain if name in TOP_LEVEL else {name: plain}
        copies = self._copied(SHARDS, shards.local)
        snapshot = _Snapshot(state.progress.step, state.progress.best_step, tensors, values, shards, copies)
        self._writing = self._writer.submit(self._write, snapshot)

    def wait(self) -> None:
        """Wait until the saved checkpoint is on disk. Raises RunError if it could not be written."""
        written, self._writing = self._writing, None
        if written is not None:
            written.result()

    def close(self) -> None:
        """Wait for the writer and stop it; do not call `save` afterwards."""
        self._writer.shutdown()
        if self._joint is not None:
            self._joint.close()

    def restore(self, step: int, state: TrainState) -> None:
        """Restore the state from the valid checkpoint of `step`; parts that it lacks are unchanged.

        Each rank reads only its part of sharded tables. Raises CheckpointError if it belongs to another model.
        """
        folder = self.run.checkpoint_path(step)
        content = json.loads((folder / STATE).read_text(encoding="utf-8"))
        index = read_index(folder)
        for name, part in state.parts.items():
            file = _tensor_file(folder, name)
            tensors = self._restored(folder, name, part, index.get(name, {}))
            values = content if name in TOP_LEVEL else content.get(name, {})
            if name == STATISTICS_PART and (statistics := read_statistics(folder)) is not None:
                values = statistics.model_dump(mode="json")
            if tensors or values:
                try:
                    part.load_state_dict({**tensors, **values})
                except CheckpointError as error:
                    raise CheckpointError(f"{file}: {error}") from None

    def _restored(
        self, folder: Path, name: str, part: Stateful, in_blocks: Mapping[str, StoredTensor]
    ) -> Mapping[str, Tensor]:
        """The tensors of a part, by name; the live ones where they are sharded, with this rank's shards filled."""
        file, listed = _tensor_file(folder, name), read_manifest(folder).files
        live: dict[str, Any] = {}
        if self.config.training.sharded_tables is not None:
            live = {key: value for key, value in part.state_dict().items() if is_sharded(value)}
        if not live and not in_blocks:
            return load_file(file) if file.name in listed else {}
        tensors: dict[str, Tensor] = {}
        with ExitStack() as stack:
            files = BlockFiles(folder, stack)
            stored = (files.whole(file.name) if file.name in listed else {}) | dict(in_blocks)
            for key, tensor in stored.items():
                if key not in live:
                    tensors[key] = files.read(tensor)
                    continue
                tensors[key] = live[key]
                fill_shards(live[key], tensor, files, f"{file}: {key}")
        return tensors

    def _copied(self, part: str, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Copies of the tensors on the CPU, in the memory of the previous copies."""
        before, copies = self._copies.get(part, {}), dict[str, Tensor]()
        for name, tensor in tensors.items():
            copy = before.get(name)
            if copy is None or copy.shape != tensor.shape or copy.dtype != tensor.dtype:
                copy = torch.empty_like(tensor, device="cpu", memory_format=torch.contiguous_format)
            copies[name] = copy.copy_(tensor)
        self._copies[part] = copies
        return copies

    def _write(self, snapshot: _Snapshot) -> None:
        """Write and delete checkpoints, in the thread. Raises RunError, which names the last valid checkpoint."""
        joint = self._joint if snapshot.shards.index else None
        directory = atomic_directory if joint is None else joint.directory
        try:
            with directory(self.run.checkpoint_path(snapshot.step)) as folder:
                if joint is not None:
                    joint.write(folder, snapshot.shards, snapshot.copies)
                if self.ranks.is_first:
                    self._write_files(folder, snapshot)
            if self.ranks.is_first:
                self._delete_old(snapshot.best_step)
        except LostRank:
            raise
        except (RunError, OSError) as error:
            raise RunError(
                f"{error}\nsaving step {snapshot.step} failed; the last valid checkpoint is "
                f"{self.run.latest or 'none'}. Free space on the disk or fix it, then run the same command again to "
                "resume"
            ) from error

    def _write_files(self, folder: Path, snapshot: _Snapshot) -> None:
        """Write everything but shards; those become whole tensors, or get an index."""
        write_inputs(folder, self.config, self.assets)
        parts: dict[str, Mapping[str, Tensor | StoredTensor]] = {WEIGHTS_PART: {}, **snapshot.tensors}
        if snapshot.shards.index:
            index = snapshot.shards.located(folder)
            sharded = self.config.training.sharded_tables
            if sharded is not None and sharded.consolidate:
                parts |= {name: {**parts.get(name, {}), **tensors} for name, tensors in index.items()}
            else:
                with writing(folder / SHARDS_INDEX) as file:
                    file.write_text(index_text(index), encoding="utf-8")
        for name, tensors in parts.items():
            with writing(_tensor_file(folder, name)) as file, ExitStack() as stack:
                write_whole(file, tensors, BlockFiles(folder, stack))
        if not (folder / SHARDS_INDEX).exists():
            shutil.rmtree(folder / SHARDS, ignore_errors=True)
        values = dict(snapshot.values)
        if statistics := values.pop(STATISTICS_PART, None):
            with writing(folder / STATISTICS) as file:
                file.write_text(json.dumps(statistics) + "\n", encoding="utf-8")
        with writing(folder / STATE) as file:
            file.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")

    def _delete_old(self, best_step: int | None) -> None:
        keep = self.config.training.checkpoint_max_to_keep
        if not keep:
            return
        for step in list(self.run.checkpoints)[:-keep]:
            if step != best_step:
                remove_directory(self.run.checkpoint_path(step))


def _is_whole(value: object) -> bool:
    return isinstance(value, Tensor) and not is_sharded(value)


def _tensor_file(folder: Path, part: str) -> Path:
    return folder / f"{part}.safetensors"


def check_resumable(checkpoint: Path, config: RecapConfig, assets: Assets) -> list[str]:
    """The changes since the configuration of `checkpoint` that a resumed run may have, one line each.

    Raises ChangedRun, which lists both kinds, if any change needs a new run.
    """
    trained = load_stored_beside(checkpoint / STORED, config)
    check_hashes(checkpoint, read_manifest(checkpoint), trained)
    changes = differences(trained, config)
    free = {path: change for path, change in changes.items() if _is_free(path)}
    allowed = describe_changes(free)
    refused = describe_changes({path: change for path, change in changes.items() if path not in free})
    before = load_assets(config.features, checkpoint) if not refused else {}
    refused += [
        f"{dotted(config.features.path_of_table(name))}.vocabulary: its values changed"
        if name in config.features.code_spaces
        else f"features: the mask of {name!r} selects other values"
        for name, values in before.items()
        if not values.equals(assets[name])
    ]
    if refused:
        lines = [f"{checkpoint}: this run started with another configuration. These changes need a new run:"]
        lines += [f"  {change}" for change in refused]
        if allowed:
            lines += ["These are allowed in a resumed run:", *(f"  {change}" for change in allowed)]
        which = "the changes that need a new run" if allowed else "them"
        lines.append(f"Undo {which}, or start a new run with another training.save_dir.")
        raise ChangedRun("\n".join(lines), refused)
    return allowed


def _is_free(path: KeyPath) -> bool:
    """Whether a resumed run may change the field at `path`, because no step depends on it."""
    return is_below_mark(RecapConfig, path, FreeOnResume())
