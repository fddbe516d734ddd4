"""Training records: mean losses since the last record, learning rates, speed."""

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from recap.config.recap import RecapConfig
from recap.data.stream.batch_stream import BatchStream
from recap.model.directory import TABLES
from recap.model.names import key_of
from recap.model.ranker import Ranker
from recap.reporting import Record
from recap.runtime import Runtime
from recap.text import plural
from recap.training.profile import span
from recap.training.sharded_tables.tables import ShardedTables
from recap.training.state import Progress


class TrainLog:
    """Sums losses over steps and turns them into records."""

    def __init__(self, config: RecapConfig, stream: BatchStream) -> None:
        self.tasks = config.tasks
        self.loss_weights = [task.loss_weight for task in config.model.tasks.values()]
        self.stream = stream
        self.loss_sums: dict[str, float] = {}
        """Task → sum of its losses since the last record."""
        self.loss_steps = 0
        """Steps since the last record."""
        self.losses: dict[str, float] = {}
        """Task → its loss in the last step."""
        self.waited = 0.0
        """Seconds spent waiting for the data of the last step."""
        self.start(0)

    def start(self, step: int) -> None:
        """Start the clock of the next record after `step`."""
        self._started, self._started_step = time.monotonic(), step
        self._waited_since_record = 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time the wait for the next batch."""
        started = time.monotonic()
        with span("data wait"):
            yield
        self.waited = time.monotonic() - started
        self._waited_since_record += self.waited

    def add(self, losses: Tensor) -> float:
        """Add the losses [T] of a step; return their weighted mean."""
        self.losses = dict(zip(self.tasks, losses.tolist(), strict=True))
        for task, loss in self.losses.items():
            self.loss_sums[task] = self.loss_sums.get(task, 0.0) + loss
        self.loss_steps += 1
        return self._mean(self.losses.values())

    def pause(self, seconds: float) -> None:
        """Exclude `seconds` from the speed, which counts training alone."""
        self._started += seconds

    def record(self, progress: Progress, rates: Mapping[str, float], task_weights: Iterable[float] | None) -> Record:
        """The record of the steps since the last one: mean losses, the `rates` by group, and learned task weights."""
        means = {task: total / self.loss_steps for task, total in self.loss_sums.items()}
        seconds = time.monotonic() - self._started
        examples = (progress.step - self._started_step) * self.stream.batch_rows
        record = {
            "step": progress.step,
            "split": "train",
            "epoch": round(self.stream.epoch, 4),
            "skipped": len(self.stream.skipped),
            "skipped_steps": progress.skipped_steps,
            "rollbacks": len(progress.rolled_back),
            "examples_per_second": round(examples / seconds, 1) if seconds else None,
            "data_wait": round(self._waited_since_record / seconds, 4) if seconds else None,
            "loss": self._mean(means[task] for task in self.tasks),
            **{f"loss/{task}": mean for task, mean in means.items()},
            **{f"rate/{group}": rate for group, rate in rates.items()},
        }
        if task_weights is not None:
            record |= {f"balancing/{task}": weight for task, weight in zip(self.tasks, task_weights, strict=True)}
        self.loss_sums, self.loss_steps = {}, 0
        self.start(progress.step)
        return record

    def state_dict(self) -> Mapping[str, Any]:
        return {"loss_sums": dict(self.loss_sums), "loss_steps": self.loss_steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.loss_sums, self.loss_steps = dict(state["loss_sums"]), state["loss_steps"]

    def _mean(self, losses: Iterable[float]) -> float:
        """The mean over tasks of `loss_weight` times loss."""
        return sum(weight * loss for weight, loss in zip(self.loss_weights, losses, strict=True)) / len(self.tasks)


def describe_setup(runtime: Runtime, ranker: Ranker) -> str:
    """The size of the model, the device, the ranks and their threads on a CPU, and the precision, as text."""
    parameters = sum(parameter.numel() for parameter in ranker.parameters())
    tables = ranker.inputs.embeddings
    if tables.is_sharded:
        parameters += sum(spec.num_embeddings * spec.width for spec in tables.specs.values())
    threads = plural(torch.get_num_threads(), "thread") if runtime.device.type == "cpu" else ""
    ranks = plural(runtime.ranks.world_size, "rank") if runtime.ranks.is_distributed else ""
    shared = " of ".join(filter(None, (ranks, threads)))
    return ", ".join(filter(None, (f"{parameters:,} parameters", f"on {runtime.device}", shared, runtime.precision)))


def describe_limits(config: RecapConfig, step: int, *, data_ended: bool, watch_ended: bool) -> str:
    """The limits that a finished run has reached, as text: each field with its value."""
    training = config.training
    limits = {
        f"training.num_train_steps: {training.num_train_steps}": step >= training.num_train_steps,
        f"train_data.num_epochs: {config.train_data.num_epochs}": data_ended,
        f"training.watch.stop_after: {training.watch and training.watch.stop_after}": watch_ended,
    }
    return " and ".join(limit for limit, reached in limits.items() if reached)


@torch.no_grad()
def weight_norms(ranker: Ranker) -> dict[str, float]:
    """`norm/PATH` → the L2 norm of all weights below PATH, for each top-level module with weights and each table.

    Takes one pass over all weights. Every rank must call it, since sharded tables sum over the ranks.
    """
    tables = {name: module for name, module in ranker.named_modules() if isinstance(module, nn.Embedding)}
    parts = dict(ranker.named_children()) | tables
    weights = {name: list(module.parameters()) for name, module in parts.items()}
    norms = {name: get_total_norm(tensors).item() for name, tensors in weights.items() if tensors}
    if isinstance(ranker.inputs.embeddings, ShardedTables):
        sharded = ranker.inputs.embeddings.norms()
        norms["inputs"] = math.hypot(norms.get("inputs", 0.0), *sharded.values())
        norms |= {f"{TABLES}.tables.{key_of(table)}": norm for table, norm in sharded.items()}
    return {f"norm/{name}": norm for name, norm in norms.items()}
