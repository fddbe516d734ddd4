"""What is logged of training: mean losses since the last line, rates, and speed."""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from recap.config.recap import RecapConfig
from recap.data.stream.batch_stream import BatchStream
from recap.reporting import Record
from recap.runtime import Runtime
from recap.training.checkpoints import RunState
from recap.training.profile import span


class TrainLog:
    """Sums losses in the state of a run, and makes a record of them."""

    def __init__(self, config: RecapConfig, state: RunState, stream: BatchStream) -> None:
        self.tasks = config.tasks
        self.loss_weights = [task.loss_weight for task in config.model.tasks.values()]
        self.state, self.stream = state, stream
        self.started, self.started_step = time.monotonic(), state.step
        self.losses: dict[str, float] = {}
        """Those of the last step, by task."""
        self.waited, self.waited_since = 0.0, 0.0
        """Seconds for the data of the last step, and of all steps since the last record."""

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The next batch is waited for."""
        started = time.monotonic()
        with span("data wait"):
            yield
        self.waited = time.monotonic() - started
        self.waited_since += self.waited

    def add(self, losses: Tensor) -> float:
        """Take in the losses [T] of a step; what the step minimised, their weighted mean."""
        self.losses = dict(zip(self.tasks, losses.tolist(), strict=True))
        for task, loss in self.losses.items():
            self.state.loss_sums[task] = self.state.loss_sums.get(task, 0.0) + loss
        self.state.loss_steps += 1
        return self._mean(self.losses.values())

    def pause(self, seconds: float) -> None:
        """Leave these out of the time that training took: examples/s are of training alone."""
        self.started += seconds

    def record(self, rates: Mapping[str, float], task_weights: Iterable[float] | None) -> Record:
        """What was seen since the last record: means, the `rates` of the step just done, and learned weights."""
        state = self.state
        means = {task: total / state.loss_steps for task, total in state.loss_sums.items()}
        seconds = time.monotonic() - self.started
        examples = (state.step - self.started_step) * self.stream.batch_rows
        record = {
            "step": state.step,
            "split": "train",
            "epoch": round(self.stream.epoch, 4),
            "passed_over": len(self.stream.skipped),
            "skipped_steps": state.skipped_steps,
            "rollbacks": len(state.rolled_back),
            "examples_per_second": round(examples / seconds, 1) if seconds else None,
            "data_wait": round(self.waited_since / seconds, 4) if seconds else None,
            "loss": self._mean(means[task] for task in self.tasks),
            **{f"loss/{task}": mean for task, mean in means.items()},
            **{f"rate/{group}": rate for group, rate in rates.items()},
        }
        if task_weights is not None:
            record |= {f"balancing/{task}": weight for task, weight in zip(self.tasks, task_weights, strict=True)}
        state.loss_sums, state.loss_steps = {}, 0
        self.started, self.started_step, self.waited_since = time.monotonic(), state.step, 0.0
        return record

    def _mean(self, losses: Iterable[float]) -> float:
        """The mean over tasks of `loss_weight` times loss."""
        return sum(weight * loss for weight, loss in zip(self.loss_weights, losses, strict=True)) / len(self.tasks)


def running_on(runtime: Runtime, ranker: nn.Module) -> str:
    """What a run trains and where, in a line."""
    parameters = sum(parameter.numel() for parameter in ranker.parameters())
    return ", ".join([f"{parameters:,} parameters", f"on {runtime.device}", runtime.precision])
