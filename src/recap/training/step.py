"""One optimizer step: micro-batches forward and backward, then the weights move."""

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from recap.config.recap import RecapConfig
from recap.data.batch import Batch
from recap.errors import InputError, RunError
from recap.model.layers import running_statistics
from recap.model.ranker import Ranker
from recap.runtime import Runtime, seed_torch
from recap.training.agreement import Agreement
from recap.training.balancing import Balancing
from recap.training.optimizer import ScheduledOptimizer


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
        agreement: Agreement,
    ) -> None:
        """`agreement` is that of all ranks, each of which has its share of a batch. InputError if that is too small."""
        self.rows, self.agreement = config.train_data.global_batch_size, agreement
        self.seed, self.parts = config.training.seed, config.training.gradient_accumulation or 1
        self.tasks = config.tasks
        self.ranker, self.balancing, self.optimizer, self.runtime = ranker, balancing, optimizer, runtime
        self.statistics = running_statistics(ranker)
        self._refuse_small_shares()

    def __call__(self, batch: Batch, step: int, rates: Mapping[str, float]) -> Tensor:
        """Do step number `step`, from 1 on, at these rates; its losses, [T] float64. Raises NotFinite.

        `batch` is this rank's share of the step's rows, the losses are those of all.
        """
        ranks = self.runtime.ranks
        seed_torch(self.seed, step, ranks.rank)
        self.optimizer.zero_grad()
        losses = torch.zeros(len(self.tasks), dtype=torch.float64)  # [T]
        for micro_batch in split_rows(batch, self.parts):
            micro_batch = micro_batch.to(self.runtime.device)
            share = len(micro_batch) / self.rows
            per_task = self.balancing.backward(self.ranker.raw_outputs(micro_batch), micro_batch, share)  # [T]
            losses += per_task.cpu().double() * share
        losses = self.agreement.sum(losses)
        ranks.mean_(self.statistics)
        bad = [task for task, loss in zip(self.tasks, losses.tolist(), strict=True) if not math.isfinite(loss)]
        if bad:
            raise NotFinite(step, bad)
        self.balancing.finish(losses, ranks)
        self.optimizer.step(rates)
        return losses

    def _refuse_small_shares(self) -> None:
        ranks = self.runtime.ranks.world_size
        needed = self.parts * (2 if self.statistics else 1)
        if ranks > 1 and self.rows // ranks < needed:
            each = " of 2 rows for BatchNorm" if self.statistics else ""
            raise InputError(
                f"train_data.global_batch_size: {self.rows} rows are too few for {ranks} ranks of {self.parts} "
                f"micro-batches{each}, at least {needed * ranks} are needed; take fewer ranks, or more rows"
            )


def split_rows(batch: Batch, count: int) -> Iterator[Batch]:
    """`count` micro-batches of `batch`, in order, whose sizes differ by one row at most; empty ones left out."""
    rows = len(batch)
    for part in range(count):
        start, end = rows * part // count, rows * (part + 1) // count
        if end > start:
            yield batch.rows(slice(start, end))
