"""One optimizer step: forward and backward passes over micro-batches, then an update of the weights."""

import math
import os
from collections.abc import Callable, Iterator
from shutil import which

import torch
from torch import Tensor

from recap.config.recap import RecapConfig
from recap.data.batch import Batch
from recap.errors import InputError, NotFinite, RunError
from recap.model.layers import running_statistics
from recap.model.objective.objective import Objective
from recap.model.ranker import Ranker
from recap.native.torch_private import compile_errors
from recap.runtime import Runtime
from recap.signals import Signals
from recap.training.balancing.balancing import Balancing
from recap.training.loss_scale import LossScale
from recap.training.optimizer.clipping import clip_gradients
from recap.training.optimizer.scheduled import ScheduledOptimizer
from recap.training.parallel import ONE_PROCESS, Strategy
from recap.training.profile import span
from recap.training.step_guard import StepGuard


class TrainStep:
    """Updates a ranker with the gradients of a batch."""

    def __init__(
        self,
        config: RecapConfig,
        ranker: Ranker,
        balancing: Balancing,
        optimizer: ScheduledOptimizer,
        runtime: Runtime,
        strategy: Strategy = ONE_PROCESS,
        *,
        loss_scale: LossScale | None = None,
        signals: Signals | None = None,
        teachers: Callable[[Batch], Batch] = lambda batch: batch,
    ) -> None:
        """`loss_scale`: None for a scale of 1. `signals` interrupt a step that takes too long. `teachers`: adds their
        predictions to a micro-batch on the device.

        Raises InputError if a rank's share of a batch is too small.
        """
        self.rows, self.micro_batches = config.train_data.global_batch_size, config.training.gradient_accumulation or 1
        self.seed, self.tasks, self.clipping = config.training.seed, config.tasks, config.optimizer.clip_gradients
        self.gradient_norm: float | None = None
        """The norm of the last step's gradients before clipping; None without clipping."""
        self.ranker, self.balancing, self.optimizer, self.runtime = ranker, balancing, optimizer, runtime
        self.objective = Objective(config).to(runtime.device)
        self.teachers = teachers
        self.strategy, self.guard = strategy, StepGuard(self.tasks, ranker, balancing)
        self.loss_scale = LossScale(enabled=False) if loss_scale is None else loss_scale
        self.signals = Signals(0.0) if signals is None else signals
        self.statistics = running_statistics(ranker)
        strategy.check_batch(self.rows, self.micro_batches, 2 if self.statistics else 1)
        self.raw_outputs = compiled(ranker) if config.training.compile else ranker.raw_outputs
        if balancing.sums_in_backward:
            tables = config.optimizer.tables
            sparse = tables is not None and tables.sparse
            self.raw_outputs = strategy.sum_in_backward(ranker, self.raw_outputs, sparse_tables=sparse)

    def __call__(self, batch: Batch, step: int) -> Tensor:
        """Take optimizer step number `step`, counted from 1; return the losses over all ranks' rows, [T] float64.

        `batch` is this rank's share of the rows. Raises NotFinite or StopNow, and then changes nothing.
        """
        self.guard.begin()
        scale = self.loss_scale.state_dict()
        try:
            losses = self._gradients_in_range(batch, step)
        except BaseException:
            self.loss_scale.load_state_dict(scale)  # a smaller scale did not help
            raise
        self.loss_scale.step()
        with span("optimizer"):
            self.optimizer.step(step, batch)
        return losses

    def _gradients_in_range(self, batch: Batch, step: int) -> Tensor:
        """`_gradients`, repeated with half the loss scale while a gradient overflows."""
        while True:
            try:
                with self.signals.interruptible_when_late():
                    return self._gradients(batch, step)
            except BaseException as error:
                self.guard.undo()
                overflow = isinstance(error, NotFinite) and error.kind == "gradient"
                if not (overflow and self.loss_scale.halve()):
                    raise

    def _gradients(self, batch: Batch, step: int) -> Tensor:
        """Set the gradients of the parameters for a step; return the losses, [T] float64."""
        self.strategy.seed(self.seed, step)
        self.optimizer.prepare(step)
        losses = torch.zeros(len(self.tasks), dtype=torch.float64)  # [T]
        micro_batches = list(split_rows(batch, self.micro_batches))
        for number, micro_batch in enumerate(micro_batches, start=1):
            with self.strategy.micro_batch(is_last=number == len(micro_batches)):
                losses += self._micro_batch(micro_batch)
        with span("backward"):  # the span includes all work on gradients
            losses = self.strategy.sum_losses(losses)
            self.strategy.average_statistics(self.statistics)
            self.guard.check_losses(step, losses)
            if self.loss_scale.enabled:
                self.balancing.unscale(self.loss_scale.factor)
                self.optimizer.unscale(self.loss_scale.factor)
            self.balancing.finish(losses)
            self.guard.check_gradients(step)
            self._clip(step)
        return losses

    def _micro_batch(self, micro_batch: Batch) -> Tensor:
        """Add the gradients of a micro-batch; return the losses [T] float64, weighted by its share of the step."""
        with span("forward"):
            micro_batch = self.teachers(micro_batch.to(self.runtime.device))
            with self.runtime.autocast():
                outputs = self.raw_outputs(micro_batch)
        share = len(micro_batch) / self.rows
        with span("backward"):
            task_losses = self.objective(outputs, micro_batch)
            self.balancing.backward(task_losses, share * self.loss_scale.factor)
            weighted: Tensor = task_losses.losses.detach().cpu().double() * share
            return weighted

    def _clip(self, step: int) -> None:
        """Clip the gradients if configured. Raises NotFinite if their total norm overflows float32."""
        if self.clipping is not None:
            parameters = [*self.ranker.parameters(), *self.balancing.parameters().values()]
            self.gradient_norm = clip_gradients(self.clipping, parameters)
            if not math.isfinite(self.gradient_norm):
                raise NotFinite(step, "norm", ["all gradients"])


def compiled(ranker: Ranker) -> Callable[[Batch], list[Tensor]]:
    """`ranker.raw_outputs`, which torch compiles when it is first called. Raises InputError without a C++ compiler.

    The function raises RunError if torch cannot compile it. The penalty of experts is not compiled: torch warns of
    tensors that a module holds.
    """
    compilers = [os.environ.get("CXX"), "g++", "clang++"]
    if not torch.cuda.is_available() and not any(which(name) for name in compilers if name):
        raise InputError(
            "training.compile: torch.compile needs a C++ compiler, but neither g++ nor clang++ is installed; install "
            "one, set CXX to one, or remove training.compile"
        )
    network = torch.compile(ranker.network_outputs)

    def call(batch: Batch) -> list[Tensor]:
        try:
            return [*network(batch), *ranker.penalty()]
        except compile_errors() as error:
            reason = str(error).strip().partition("\n")[0]
            raise RunError(
                f"training.compile: torch.compile failed: {reason}; remove training.compile, or fix the compiler"
            ) from error

    return call


def split_rows(batch: Batch, count: int) -> Iterator[Batch]:
    """Split `batch` into `count` consecutive micro-batches, equal to within one row; empty ones are left out."""
    rows = len(batch)
    for index in range(count):
        start, end = rows * index // count, rows * (index + 1) // count
        if end > start:
            yield batch.rows(slice(start, end))
