"""One optimizer step: micro-batches forward and backward, then the weights move."""

import math
import os
from collections.abc import Callable, Iterator, Mapping
from shutil import which

import torch
from torch import Tensor

from recap.config.recap import RecapConfig
from recap.data.batch import Batch
from recap.distributed import Consensus
from recap.errors import InputError, NotFinite, RunError
from recap.model.layers import running_statistics
from recap.model.ranker import Ranker
from recap.runtime import Runtime, seed_torch
from recap.training.average import WeightAverage
from recap.training.balancing import Balancing
from recap.training.finite import StepGuard
from recap.training.loss_scale import LossScale, LossScaleState
from recap.training.optimizer.clipping import clip_gradients
from recap.training.optimizer.scheduled import ScheduledOptimizer
from recap.training.profile import span


class TrainStep:
    """Moves a ranker by the gradients of a batch."""

    def __init__(
        self,
        config: RecapConfig,
        ranker: Ranker,
        balancing: Balancing,
        optimizer: ScheduledOptimizer,
        average: WeightAverage,
        runtime: Runtime,
        consensus: Consensus,
        scale: LossScaleState | None = None,
    ) -> None:
        """`consensus` is that of all ranks, each of which has its share of a batch. InputError if that is too small.

        `scale`: what is remembered of the scale of losses; none given: nothing yet.
        """
        self.rows, self.consensus = config.train_data.global_batch_size, consensus
        self.seed, self.parts = config.training.seed, config.training.gradient_accumulation or 1
        self.tasks, self.clipping = config.tasks, config.optimizer.clip_gradients
        self.gradient_norm: float | None = None
        """Of the last step, before its gradients were clipped; None where they are not."""
        self.ranker, self.balancing, self.optimizer, self.runtime = ranker, balancing, optimizer, runtime
        self.average, self.guard = average, StepGuard(self.tasks, ranker, balancing)
        self.scale = LossScale(scale or LossScaleState(), used=runtime.precision == "float16")
        self.raw_outputs = compiled(ranker.raw_outputs) if config.training.compile else ranker.raw_outputs
        self.statistics = running_statistics(ranker)
        self._refuse_small_shares()

    def __call__(self, batch: Batch, step: int, rates: Mapping[str, float]) -> Tensor:
        """Do step number `step`, from 1 on, at these rates; its losses, [T] float64.

        `batch` is this rank's share of the step's rows, the losses are those of all.
        Raises NotFinite and StopNow; all is then as it was before the step.
        """
        self.guard.remember()
        scale = self.scale.as_is()
        try:
            while (losses := self._tried(batch, step)) is None:
                pass
        except BaseException:
            self.scale.bring_back(scale)  # it was not to blame
            raise
        self.scale.keep()
        with span("optimizer"):
            self.optimizer.step(rates)
            self.average.update(step)
        return losses

    def _tried(self, batch: Batch, step: int) -> Tensor | None:
        """The same as `_gradients`; None, and all is as it was, if the scale of the losses was too large."""
        try:
            with self.consensus.local.interruptible_when_late():
                return self._gradients(batch, step)
        except BaseException as error:
            self.guard.bring_back()
            if isinstance(error, NotFinite) and error.what == "gradient" and self.scale.halve():
                return None
            raise

    def _gradients(self, batch: Batch, step: int) -> Tensor:
        """Have the gradients of a step in place; its losses, [T] float64."""
        ranks = self.runtime.ranks
        seed_torch(self.seed, step, ranks.rank)
        self.optimizer.zero_grad()
        losses = torch.zeros(len(self.tasks), dtype=torch.float64)  # [T]
        for micro_batch in split_rows(batch, self.parts):
            with span("forward"), self.runtime.autocast():
                micro_batch = micro_batch.to(self.runtime.device)
                outputs = self.raw_outputs(micro_batch)
            share = len(micro_batch) / self.rows
            with span("backward"):
                per_task = self.balancing.backward(outputs, micro_batch, share * self.scale.factor)  # [T]
                losses += per_task.cpu().double() * share
        with span("backward"):  # what is done to gradients belongs to it
            losses = self.consensus.all_reduce(losses)
            ranks.all_reduce_mean_(self.statistics)
            self.guard.check_losses(step, losses)
            if self.scale.used:
                self.balancing.unscale(self.scale.factor)
            self.balancing.finish(losses, ranks)
            self.guard.check_gradients(step)
            self._clip(step)
        return losses

    def _clip(self, step: int) -> None:
        """Clip the gradients if that is asked for. Raises NotFinite where together they are too large for float32."""
        if self.clipping is not None:
            parameters = [*self.ranker.parameters(), *self.balancing.parameters().values()]
            self.gradient_norm = clip_gradients(self.clipping, parameters)
            if not math.isfinite(self.gradient_norm):
                raise NotFinite(step, "norm", ["all gradients"])

    def _refuse_small_shares(self) -> None:
        ranks = self.runtime.ranks.world_size
        needed = self.parts * (2 if self.statistics else 1)
        if ranks > 1 and self.rows // ranks < needed:
            each = " of 2 rows for BatchNorm" if self.statistics else ""
            raise InputError(
                f"train_data.global_batch_size: {self.rows} rows are too few for {ranks} ranks of {self.parts} "
                f"micro-batches{each}, at least {needed * ranks} are needed; take fewer ranks, or more rows"
            )


def compiled(raw_outputs: Callable[[Batch], list[Tensor]]) -> Callable[[Batch], list[Tensor]]:
    """The same function in kernels that are made when it is first called. Raises InputError without a compiler.

    What it returns raises RunError where torch cannot make them.
    """
    if not torch.cuda.is_available() and not any(map(which, filter(None, (os.environ.get("CXX"), "g++", "clang++")))):
        raise InputError(
            "training.compile: torch.compile needs a C++ compiler, and there is neither g++ nor clang++; install one, "
            "name one in CXX, or leave compile out"
        )
    from torch._dynamo.exc import TorchDynamoException

    made = torch.compile(raw_outputs)

    def call(batch: Batch) -> list[Tensor]:
        try:
            return made(batch)
        except TorchDynamoException as error:
            reason = str(error).strip().partition("\n")[0]
            raise RunError(
                f"training.compile: torch.compile failed: {reason}; leave compile out, or mend the compiler"
            ) from error

    return call


def split_rows(batch: Batch, count: int) -> Iterator[Batch]:
    """`count` micro-batches of `batch`, in order, whose sizes differ by one row at most; empty ones left out."""
    rows = len(batch)
    for part in range(count):
        start, end = rows * part // count, rows * (part + 1) // count
        if end > start:
            yield batch.rows(slice(start, end))
