"""One optimizer step: micro-batches forward and backward, then the weights move."""

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from recap.config.recap import RecapConfig
from recap.data.batch import Batch
from recap.errors import RunError
from recap.model.ranker import Ranker
from recap.runtime import Runtime, seed_torch
from recap.training.balancing import Balancing
from recap.training.optimizer import ScheduledOptimizer
from recap.training.profile import span


class NotFinite(RunError):
    """The loss of some tasks is not finite; the weights were not moved."""

    def __init__(self, step: int, tasks: list[str]) -> None:
        super().__init__(
            f"step {step}: the loss of {', '.join(tasks)} is not finite; the weights were not moved. "
            "Lower the learning rates, lengthen their ramp, or look for extreme values in vector columns"
        )


class TrainStep:
    """Moves a ranker by the gradients of a batch."""

    def __init__(
        self,
        config: RecapConfig,
        ranker: Ranker,
        balancing: Balancing,
        optimizer: ScheduledOptimizer,
        runtime: Runtime,
    ) -> None:
        self.seed, self.parts = config.training.seed, config.training.gradient_accumulation or 1
        self.tasks = config.tasks
        self.ranker, self.balancing, self.optimizer, self.runtime = ranker, balancing, optimizer, runtime

    def __call__(self, batch: Batch, step: int, rates: Mapping[str, float]) -> Tensor:
        """Do step number `step`, from 1 on, at these rates; its losses, [T] float64. Raises NotFinite."""
        seed_torch(self.seed, step)
        self.optimizer.zero_grad()
        losses = torch.zeros(len(self.tasks), dtype=torch.float64)  # [T]
        for micro_batch in split_rows(batch, self.parts):
            with span("forward"):
                micro_batch = micro_batch.to(self.runtime.device)
                outputs = self.ranker.raw_outputs(micro_batch)
            share = len(micro_batch) / len(batch)
            with span("backward"):
                per_task = self.balancing.backward(outputs, micro_batch, share)  # [T]
                losses += per_task.cpu().double() * share
        bad = [task for task, loss in zip(self.tasks, losses.tolist(), strict=True) if not math.isfinite(loss)]
        if bad:
            raise NotFinite(step, bad)
        with span("optimizer"):
            self.balancing.finish(losses)
            self.optimizer.step(rates)
        return losses


def split_rows(batch: Batch, count: int) -> Iterator[Batch]:
    """`count` micro-batches of `batch`, in order, whose sizes differ by one row at most; empty ones left out."""
    rows = len(batch)
    for part in range(count):
        start, end = rows * part // count, rows * (part + 1) // count
        if end > start:
            yield batch.rows(slice(start, end))
