"""Training: load, step, evaluate, save."""

import fcntl
import math
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType

import torch

from recap.config.load import dump_config
from recap.config.recap import JobMode, RecapConfig
from recap.data.assets import load_assets
from recap.data.batch import Batch
from recap.data.stream import BatchStream, open_stream, refuse_caches_that_do_not_fit
from recap.errors import CheckpointError, DataError, InputError, RecapError, RunError
from recap.evaluation.evaluate import Evaluation, evaluate
from recap.evaluation.strata import Strata
from recap.model.directory import verify
from recap.model.saved import CONFIG, SavedModel, checkpoint_path, find_model_dir, load_weights, new_ranker
from recap.runtime import seed_torch, start_runtime
from recap.tracking import Reporter, open_trackers
from recap.training.balancing import build_balancing
from recap.training.checkpoint import Checkpoints, RunState, check_resumable
from recap.training.optimizer import ScheduledOptimizer
from recap.training.watch import Watch


class Interrupted(RecapError):
    """A signal asked the run to stop; its state is saved."""

    def __init__(self, number: int, step: int) -> None:
        super().__init__(
            f"stopped by {signal.Signals(number).name} after step {step}, which is saved; "
            "run the same command again to go on"
        )
        self.exit_code = 128 + number


class _EvaluationTimeoutError(Exception):
    """An evaluation took longer than `eval_timeout_in_s`."""


class _EvaluationStoppedError(Exception):
    """A signal arrived during an evaluation."""


def train(config: RecapConfig, reporter: Reporter, *, accept_changed_data: bool = False) -> bool:
    """Train until `num_train_steps` or `num_epochs`, from the latest checkpoint in `save_dir` if there is one.

    False: the run was finished before. `accept_changed_data`: go on though files are not those of the checkpoint.
    Raises DataError, CheckpointError, RunError (a loss that is not finite) and Interrupted (a signal).
    """
    save_dir = Path(config.training.save_dir)
    with _locked(save_dir), _signals() as signals:
        trainer = Trainer(config, reporter, signals, accept_changed_data=accept_changed_data)
        return trainer.run()


class Trainer:
    """One run in one process."""

    def __init__(
        self, config: RecapConfig, reporter: Reporter, signals: list[int], *, accept_changed_data: bool = False
    ) -> None:
        self.config, self.reporter, self.signals = config, reporter, signals
        self.runtime = start_runtime()
        assets = load_assets(config.features)
        self.stream = open_stream(config, assets, JobMode.TRAIN, say=reporter.say)
        # All opened now: data that disagrees with the configuration is refused before the first step.
        self.validation = {
            split: open_stream(config, assets, JobMode.EVALUATE, split, reporter.say)
            for split in config.validation_data
        }
        Strata(config, assets)
        refuse_caches_that_do_not_fit({"train_data": self.stream, **self.validation})
        seed_torch(config.training.seed, 0)
        ranker = new_ranker(config, assets).to(self.runtime.device)
        self.model = SavedModel(config, assets, ranker)
        self.balancing = build_balancing(config, ranker, self.runtime.device)
        self.optimizer = ScheduledOptimizer(config, ranker, self.balancing.parameters())
        self.save_dir = Path(config.training.save_dir)
        self.checkpoints = Checkpoints(self.save_dir)
        self.state = self._restore(accept_changed_data)
        self.watch = Watch(config.training.watch, self.state.watch)
        (self.save_dir / CONFIG).write_text(dump_config(config), encoding="utf-8")
        self.log_started, self.log_started_step = time.monotonic(), self.state.step

    def run(self) -> bool:
        """Do every step that is left; False if the run is finished and nothing was."""
        state, training = self.state, self.config.training
        if self._is_last() and not self._evaluation_is_due():
            return False
        self.trackers = open_trackers(self.save_dir, state.step)
        left = self.stream.rows_left
        steps = None if left is None else state.step + left // self.config.train_data.rows_of_a_step
        in_all = training.num_train_steps if steps is None else min(training.num_train_steps, steps)
        self.reporter.start(self.config, state.step, in_all, self.stream.order.rows)
        self.model.ranker.train()
        try:
            if self._evaluate_if_due():  # a signal had cut it short
                self._save()
            with closing(iter(self.stream)) as batches:
                while not self._is_last():
                    batch = next(batches, None)
                    if batch is not None:
                        self._step(batch)
                    elif not state.step:
                        raise DataError("train_data: too few good rows are left for a single step; mend the data")
                    self._log_if_due()
                    self._evaluate_if_due()
                    self._log_if_due()  # what was seen may have made this step the last
                    if self._due(training.checkpoint_every_n) or state.best_step == state.step or self.signals:
                        self._save()
                    if self.signals:
                        raise Interrupted(self.signals[0], state.step)
            self._tell_best()
        finally:
            self.trackers.close()
            self.reporter.stop()
        return True

    def _step(self, batch: Batch) -> None:
        """One optimizer step over the micro-batches of `batch`."""
        state = self.state
        seed_torch(self.config.training.seed, state.step + 1)
        self.optimizer.zero_grad()
        losses = torch.zeros(len(self.config.tasks), dtype=torch.float64)  # [T]
        for micro_batch in split_rows(batch, self.config.training.gradient_accumulation or 1):
            micro_batch = micro_batch.to(self.runtime.device)
            share = len(micro_batch) / len(batch)
            per_task = self.balancing.backward(self.model.ranker.raw_outputs(micro_batch), micro_batch, share)  # [T]
            losses += per_task.cpu().double() * share
        self._refuse_non_finite(losses)
        self.balancing.finish(losses)
        self.optimizer.step(self.optimizer.rates(state.step, self.watch.cut))
        state.step += 1
        for task, loss in zip(self.config.tasks, losses.tolist(), strict=True):
            state.loss_sums[task] = state.loss_sums.get(task, 0.0) + loss
        state.loss_steps += 1
        self.reporter.advance(state.step, self._mean(losses.tolist()), len(batch))

    def _mean(self, losses: Iterable[float]) -> float:
        """The mean over tasks of `loss_weight` times loss."""
        weights = [task.loss_weight for task in self.config.model.tasks.values()]
        return sum(weight * loss for weight, loss in zip(weights, losses, strict=True)) / len(weights)

    def _refuse_non_finite(self, losses: torch.Tensor) -> None:
        bad = [task for task, loss in zip(self.config.tasks, losses.tolist(), strict=True) if not math.isfinite(loss)]
        if bad:
            raise RunError(
                f"step {self.state.step + 1}: the loss of {', '.join(bad)} is not finite; the weights were not moved. "
                "Lower the learning rates, lengthen their ramp, or look for extreme values in vector columns "
                f"(last checkpoint: {self.checkpoints.latest_or_none() or 'none'})"
            )

    def _is_last(self) -> bool:
        """Whether no step is left: all are done, each row was seen often enough, or nothing improves any more."""
        return self.state.step >= self.config.training.num_train_steps or self.stream.ended or self.watch.ended

    def _due(self, every: int) -> bool:
        return self.state.step > 0 and (self.state.step % every == 0 or self._is_last())

    def _evaluation_is_due(self) -> bool:
        return self._due(self.config.training.eval_log_every_n) and self.state.evaluated_step < self.state.step

    def _log_if_due(self) -> None:
        """Mean losses since the last line, and the rates of the step just done."""
        state = self.state
        if not self._due(self.config.training.train_log_every_n) or not state.loss_steps:
            return
        means = {task: total / state.loss_steps for task, total in state.loss_sums.items()}
        seconds = time.monotonic() - self.log_started
        examples = (state.step - self.log_started_step) * self.stream.batch_rows
        cut = self.watch.cut
        record = {
            "step": state.step,
            "split": "train",
            "epoch": round(self.stream.epoch, 4),
            "passed_over": len(self.stream.skipped),
            "examples_per_second": round(examples / seconds, 1) if seconds else None,
            "loss": self._mean(means[task] for task in self.config.tasks),
            **{f"loss/{task}": mean for task, mean in means.items()},
            **{f"rate/{group}": rate for group, rate in self.optimizer.rates(state.step - 1, cut).items()},
        }
        weights = self.balancing.task_weights()
        if weights is not None:
            record |= {f"balancing/{task}": weight for task, weight in zip(self.config.tasks, weights, strict=True)}
        self.trackers.log(record)
        self.reporter.logged(record)
        state.loss_sums, state.loss_steps = {}, 0
        self.log_started, self.log_started_step = time.monotonic(), state.step

    def _evaluate_if_due(self) -> bool:
        """Evaluate all validation sets if this step asks for it; say whether it was done."""
        state, training = self.state, self.config.training
        if not self._evaluation_is_due():
            return False
        started = time.monotonic()
        deadline = started + training.eval_timeout_in_s
        evaluations: dict[str, Evaluation] = {}
        for split, stream in self.validation.items():
            try:
                evaluation = self._evaluate(split, stream.restarted(), deadline)
            except _EvaluationStoppedError:
                return False
            except _EvaluationTimeoutError:
                self.reporter.say(
                    f"evaluation of {split} at step {state.step} was given up after "
                    f"{training.eval_timeout_in_s:g} s (training.eval_timeout_in_s); training goes on"
                )
                break
            evaluations[split] = evaluation
            for task, metrics in evaluation.items():
                finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
                self.trackers.log({"step": state.step, "split": split, "task": task, **finite})
            self.reporter.evaluated(state.step, split, evaluation)
        if self.watch.see(evaluations):
            state.best_step = state.step
        state.evaluated_step = state.step
        self.log_started += time.monotonic() - started  # examples/s are of training alone
        return True

    def _tell_best(self) -> None:
        """Say where the best model is, and whether waiting for a better one ended the run."""
        if self.watch.config is None:
            return
        best, waited = self.state.best_step, self.state.watch.waited
        where = f": {checkpoint_path(self.save_dir, best)}" if best is not None else ""
        self.reporter.say(f"{self.watch.tell(best)}{where}")
        if self.watch.ended:
            self.reporter.say(
                f"stopped after step {self.state.step}: {waited} evaluations without a better value "
                "(training.watch.stop_after)"
            )

    def _evaluate(self, split: str, stream: BatchStream, deadline: float) -> Evaluation:
        def after_batch(_: int) -> None:
            if self.signals:
                raise _EvaluationStoppedError
            if time.monotonic() > deadline:
                raise _EvaluationTimeoutError

        return evaluate(self.model.ranker, stream, self.config, split, self.runtime, after_batch)

    def _save(self) -> None:
        self.state.stream = self.stream.state_dict()
        self.checkpoints.save(self.model, self.optimizer, self.balancing, self.state)

    def _restore(self, accept_changed_data: bool) -> RunState:
        """The state of the latest checkpoint, or of a new run: fresh or warm-started weights."""
        latest = self.checkpoints.latest_or_none()
        if latest is None:
            warm_start = self.config.training.initial_checkpoint_dir
            if warm_start is not None:
                folder = find_model_dir(Path(warm_start))
                verify(folder)
                load_weights(self.model.ranker, folder)
            return RunState()
        for change in check_resumable(latest, self.config, self.model.assets):
            self.reporter.say(f"changed since {latest.name}: {change}")
        state = self.checkpoints.restore(latest, self.model, self.optimizer, self.balancing)
        self.stream.load_state_dict(state.stream, accept_changes=accept_changed_data)
        return state


def split_rows(batch: Batch, count: int) -> Iterator[Batch]:
    """`count` micro-batches of `batch`, in order, whose sizes differ by one row at most; empty ones left out."""
    rows = len(batch)
    for part in range(count):
        start, end = rows * part // count, rows * (part + 1) // count
        if end > start:
            yield batch.rows(slice(start, end))


@contextmanager
def _locked(save_dir: Path) -> Iterator[None]:
    """Hold `save_dir` for this process alone; the lock goes with the process, however it ends."""
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


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM, to stop between two steps; a second SIGINT stops at once."""
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
