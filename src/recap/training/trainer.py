"""Training: load, step, log, evaluate, save."""

import gc
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path

from recap.config.file.load import dump_config
from recap.config.recap import RecapConfig
from recap.data.batch import Batch
from recap.data.encoding.assets import load_assets
from recap.distributed import Consensus, Ranks
from recap.errors import DataError, Interrupted, LostRank, NotFinite, RecapError, RunError
from recap.model.directory import SavedModel
from recap.rendezvous import joined_ranks
from recap.reporting import Reporter
from recap.runs import Run, RunResult
from recap.runtime import restored_threads, start_runtime
from recap.signals import Signals, StopNow, collected_signals
from recap.storage import replace_text
from recap.tracking.open import Trackers, open_trackers
from recap.training.average import WeightAverage
from recap.training.balancing.build import build_balancing
from recap.training.checkpoints import Checkpoints, check_resumable
from recap.training.evaluations import Evaluations, Stopped
from recap.training.log import TrainLog, describe_limits, describe_setup, weight_norms
from recap.training.loss_scale import LossScale
from recap.training.non_finite import RolledBack, RowLosses, build_policy, describe
from recap.training.optimizer.scheduled import ScheduledOptimizer
from recap.training.parallel import DataParallel
from recap.training.profile import Profile, span
from recap.training.saved_weights import SavedWeights
from recap.training.sharded_tables.loading import table_group
from recap.training.start.agreement import check_agreement
from recap.training.start.first_groups import FirstGroups
from recap.training.start.first_rows import FirstRows
from recap.training.start.initial_rates import InitialRates
from recap.training.start.new_run import TrainingStatistics, check_initial_checkpoint, start_new_run
from recap.training.start.ranker import open_ranker
from recap.training.start.streams import length, open_streams
from recap.training.state import ModelWeights, Progress, StreamPosition, TrainState
from recap.training.step import TrainStep
from recap.training.step_guard import not_finite_anywhere
from recap.training.teachers import Teachers
from recap.training.watch import Watch


def train(
    config: RecapConfig, reporter: Reporter, *, accept_changed_data: bool = False, profile_steps: int = 0
) -> RunResult:
    """Train until `num_train_steps` or `num_epochs`, resuming from the latest checkpoint in `save_dir` if there is one.

    `accept_changed_data`: resume even if the files changed since the checkpoint. `profile_steps`: number of steps to
    profile. Under `torchrun` every rank must call it; only rank 0 writes and uses `reporter`.
    Raises DataError, CheckpointError, RunError (such as for a non-finite step, or bad data after the first step) and
    Interrupted (after a signal, which is handled in the main thread only).
    """
    run, grace = Run(Path(config.training.save_dir)), config.training.preemption_grace_seconds
    with (
        joined_ranks() as ranks,
        run.lock() if ranks.is_first else nullcontext(),
        collected_signals(grace, may_interrupt=not ranks.is_distributed) as signals,
        restored_threads(),
        table_group(ranks) if config.training.sharded_tables is not None else nullcontext(),
    ):
        reporter = reporter if ranks.is_first else Reporter()
        profile = Profile(profile_steps if ranks.is_first else 0, run.profile, reporter.say)

        def opened(rolled_back: list[list[int]]) -> Trainer:
            with _interruptible_opening(run, signals):
                return Trainer(config, reporter, signals, ranks, rolled_back, accept_changed_data=accept_changed_data)

        rolled_back: list[list[int]] = []
        while True:
            try:
                return opened(rolled_back).run(profile)
            except RolledBack as error:
                reporter.say(str(error))
                rolled_back = error.rolled_back
            gc.collect()  # free the failed trainer before the next one is built


@contextmanager
def _interruptible_opening(run: Run, signals: Signals) -> Iterator[None]:
    """For opening the run: a signal raises Interrupted immediately."""
    try:
        with signals.interruptible():
            yield
    except StopNow as stop:
        step = max(run.checkpoints, default=0)
        raise Interrupted(stop.number, step, done=False) from None


class Trainer:
    """Trains one run, or one rank's share of it."""

    def __init__(
        self,
        config: RecapConfig,
        reporter: Reporter,
        signals: Signals,
        ranks: Ranks,
        rolled_back: list[list[int]],
        *,
        accept_changed_data: bool = False,
    ) -> None:
        """`rolled_back`: the batches that made the run roll back in this process, see `Progress`."""
        self.config, self.reporter, self.signals, self.ranks = config, reporter, signals, ranks
        self.consensus = Consensus(ranks, signals)
        if not Run(Path(config.training.save_dir)).checkpoints:
            check_initial_checkpoint(config)
        self.runtime = start_runtime(ranks, config.training.precision)
        assets = load_assets(config.features)
        self.teachers = Teachers(config, self.runtime.device)
        self.stream, validation = open_streams(config, assets, ranks, reporter.say, self.teachers.encoders)
        ranker = open_ranker(config, assets, self.runtime, ranks, reporter.say)
        self.model, self.average = SavedModel(config, assets, ranker), WeightAverage(config.training.ema, ranker)
        strategy = DataParallel(ranks, self.consensus)
        self.saved_weights = SavedWeights(config, ranker, self.average, self.stream, self.runtime, strategy)
        self.balancing = build_balancing(config, ranker.parameters(), self.runtime.device, strategy)
        self.watch = Watch(config.training.watch)
        last_step, others = length(config, self.stream), self.balancing.parameters()
        self.optimizer = ScheduledOptimizer(config, ranker, others, self.watch.cut, last_step=last_step, ranks=ranks)
        self.loss_scale = LossScale(enabled=self.runtime.precision == "float16")
        self.train_step = TrainStep(
            config,
            ranker,
            self.balancing,
            self.optimizer,
            self.runtime,
            strategy,
            loss_scale=self.loss_scale,
            signals=signals,
            teachers=self.teachers,
        )
        self.policy = build_policy(config.training.non_finite)
        self.row_losses = RowLosses(config, ranker, self.runtime.device)
        self.evaluations = Evaluations(config, ranker, validation, self.runtime, reporter, self.consensus)
        self.trackers, self.log = Trackers([]), TrainLog(config, self.stream)
        self.first_rows = FirstRows(self.stream, config.features.max_unknown, ranks, reporter.say)
        self.first_groups = FirstGroups(config, reporter.say)
        self.position = StreamPosition(self.stream, accept_changes=accept_changed_data)
        self.progress, self.initial_rates, self.statistics = Progress(), InitialRates(), TrainingStatistics()
        self.state = self._all_state()
        self.checkpoints = Checkpoints(config, assets, ranks)
        self._restore_or_start()
        self.progress.rolled_back = rolled_back or self.progress.rolled_back
        self.saved_step = self.progress.step
        streams = {"train_data": self.stream, **validation}
        check_agreement(ranks, config, streams, self.teachers.checksums, self.progress.step)
        strategy.start(ranker)
        if ranks.is_first:
            replace_text(self.checkpoints.run.config_file, dump_config(config))

    def _all_state(self) -> TrainState:
        """The state that checkpoints hold; add further stateful parts here."""
        return TrainState.of(
            self.progress,
            weights=ModelWeights(self.model.ranker, self.saved_weights),
            raw_weights=self.average,
            running_statistics=self.saved_weights,
            optimizer=self.optimizer,
            balancing=self.balancing,
            loss_scale=self.loss_scale,
            watch=self.watch,
            initial_rates=self.initial_rates,
            statistics=self.statistics,
            teachers=self.teachers,
            log=self.log,
            stream=self.position,
        )

    def _restore_or_start(self) -> None:
        """Restore the latest checkpoint; in a new run, warm-start the weights and set the initial rates."""
        local = self.checkpoints.latest_valid_step(self.reporter.say) if self.ranks.is_first else None
        step = self.ranks.broadcast_object(local)
        if step is None:
            start_new_run(self.model, self.initial_rates, self.statistics, self.stream, self.ranks, self.reporter.say)
            self.average.restart()
        else:
            checkpoint = self.checkpoints.run.checkpoint_path(step)
            for change in check_resumable(checkpoint, self.config, self.model.assets):
                self.reporter.say(f"changed since {checkpoint.name}: {change}")
            self.checkpoints.restore(step, self.state)
        self.optimizer.spare_decay([self.model.ranker.last_bias(task) for task in self.initial_rates.rates])

    def run(self, profile: Profile) -> RunResult:
        """Train to the end. Raises Interrupted after a signal, with every finished step saved."""
        if self._is_last() and not self._evaluation_is_due():
            ended = {"data_ended": self.stream.ended, "watch_ended": self.watch.ended}
            reached = describe_limits(self.config, self.progress.step, **ended)
            self.reporter.say(f"{self.checkpoints.run.path} is already finished: it reached {reached}; nothing to do")
            return self._result(trained=False)
        start = self.progress.step
        self._start()
        try:
            if self._evaluate_if_due():  # one that a signal interrupted in an earlier process
                self._save()
            with closing(iter(self.stream)) as batches, profile:
                while not (self._is_last() or self.consensus.signals):
                    batch = self._load(batches)
                    self._step(batch)
                    self.first_rows.add(batch, is_last=self._is_last())
                    self.first_groups.add(batch, is_last=self._is_last())
                    self._log_if_due()
                    self._evaluate_if_due()
                    self._save_if_due()
                    profile.step()
            if self.consensus.signals:
                raise StopNow(self.consensus.signals[0])
            self._wait_for_checkpoint()
            for line in self.watch.summary(self.progress.step, self.progress.best_step):
                self.reporter.say(line)
        except StopNow as stop:
            if self.progress.step > self.saved_step:  # StopNow interrupted a wait for data or a slow step
                self._save()
            self._wait_for_checkpoint()
            raise Interrupted(stop.number, self.progress.step, done=self.progress.step > start) from None
        except (DataError, LostRank) as error:
            raise self._saved_before(error) from error
        finally:
            self.checkpoints.close()
            self.trackers.close(finished=self._is_last())
            self.reporter.stop()
        return self._result(trained=True)

    def _start(self) -> None:
        """Open the trackers and report where the run starts and ends."""
        progress, data = self.progress, self.config.train_data
        if self.ranks.is_first:
            self.trackers = open_trackers(self.config, progress.step, self.reporter.say)
        steps = length(self.config, self.stream)
        rows = self.stream.order.rows
        epochs = steps * data.rows_per_step / rows
        device = describe_setup(self.runtime, self.model.ranker)
        for line in self.teachers.messages:
            self.reporter.say(line)
        self.reporter.start(self.checkpoints.run.path, progress.step, steps, rows, epochs, device)
        self.model.ranker.train()
        self.log.start(progress.step)

    def _load(self, batches: Iterator[Batch]) -> Batch | None:
        """The next batch, without those that made the run roll back; None at the end of the data.

        A signal interrupts the wait.
        """
        with self.log.waiting(), self.signals.interruptible():
            return next((batch for batch in batches if self.stream.batch_range not in self.progress.rolled_back), None)

    def _step(self, batch: Batch | None) -> None:
        """Take one optimizer step over `batch`; None only moves past the end of the data."""
        progress, step = self.progress, self.progress.step + 1
        if batch is not None:
            try:
                losses = self.train_step(batch, step)
            except NotFinite as error:
                self._skip_or_fail(error, batch)
                progress.step = step
            else:
                self.average.update(step)
                self.saved_weights.forget()
                progress.step = step
                loss = self.log.add(losses)
                self.reporter.advance(step, loss, self.stream.batch_rows, self.log.losses, self.log.waited)
        elif not progress.step:
            raise DataError("train_data: too few good rows are left for a single step; fix the data")
        self.position.advance()

    def _skip_or_fail(self, error: NotFinite, batch: Batch) -> None:
        """Skip a non-finite step, or raise, as `training.non_finite` says."""
        message = describe(error, batch, self.row_losses, self.stream)
        message += f" (last checkpoint: {self._last_checkpoint()})"
        self.reporter.say(self.policy(self.progress, message, self.stream.batch_range))
        self.progress.skipped_steps += 1

    def _is_last(self) -> bool:
        """Whether the run has taken all its steps or epochs, or the watched metric stopped improving."""
        return self.progress.step >= self.config.training.num_train_steps or self.stream.ended or self.watch.ended

    def _is_due(self, every: int) -> bool:
        return self.progress.step > 0 and (self.progress.step % every == 0 or self._is_last())

    def _log_if_due(self) -> None:
        if self._is_due(self.config.training.train_log_every_n):
            self._log()

    def _log(self) -> None:
        """Record the steps since the last record, if there are any."""
        if not self.log.loss_steps:
            return
        with span("logging"):
            rates = self.optimizer.rates(self.progress.step)
            record = dict(self.log.record(self.progress, rates, self.balancing.task_weights()))
            if self.train_step.gradient_norm is not None:
                record["gradient_norm"] = self.train_step.gradient_norm
            if self.config.training.log_norms:
                record |= weight_norms(self.model.ranker)
            if self.loss_scale.enabled:
                record["loss_scale"] = self.loss_scale.factor
            self.trackers.log(record)
            self.reporter.logged(record)

    def _evaluation_is_due(self) -> bool:
        every = self.config.training.eval_log_every_n
        return every is not None and self._is_due(every) and self.progress.evaluated_step < self.progress.step

    def _evaluate_if_due(self) -> bool:
        """Evaluate all splits if that is due; return False if it is not, or if a signal interrupted it."""
        if not self._evaluation_is_due():
            return False
        started, step = time.monotonic(), self.progress.step
        with self.signals.interruptible():
            self.saved_weights.estimate()
        try:
            with span("evaluation"), self.saved_weights.applied():
                evaluations = self.evaluations(step, self.trackers)
        except Stopped:
            return False
        if self.watch.update(evaluations):
            self.progress.best_step = step
        if (value := self.watch.describe()) is not None:
            self.reporter.say(f"step {step:>7,}  {value}")
        self.progress.evaluated_step = step
        self.log.pause(time.monotonic() - started)
        if self.watch.ended:  # this step is now the last
            self._log()
        return True

    def _save_if_due(self) -> None:
        is_best = self.progress.best_step == self.progress.step
        is_due = self._is_due(self.config.training.checkpoint_every_n) or is_best
        if is_due:
            self.saved_weights.estimate()
        if is_due or self.consensus.signals:
            self._save()

    def _save(self) -> None:
        with span("checkpoint"):
            bad = not_finite_anywhere({**self.model.ranker.state_dict(), **self.optimizer.state_dict()}, self.ranks)
            if bad:
                raise RunError(
                    f"after step {self.progress.step} {bad[0]} is not finite; the step was not saved (last checkpoint: "
                    f"{self._last_checkpoint()}). Lower the learning rates, or lengthen their ramp"
                )
            self.saved_step = self.progress.step
            self.progress.finished = self._is_last() and not self._evaluation_is_due()
            self.checkpoints.save(self.state)

    def _last_checkpoint(self) -> str:
        """The last checkpoint that rank 0 wrote: all ranks raise the same error, which is then printed once."""
        return str(self.ranks.broadcast_object(str(self.checkpoints.latest() or "none")))

    def _saved_before(self, error: DataError | LostRank) -> RecapError:
        """Save the finished steps, which bad data or another rank ended; return the error to raise."""
        if not self.progress.step:
            return error
        # The others may be gone, or wait in a collective, so their parts of the tables cannot be saved.
        divided = self.ranks.is_distributed and self.config.training.sharded_tables is not None
        try:
            if self.progress.step > self.saved_step and not divided:
                self._save()
            self.checkpoints.wait()
        except LostRank:
            return error
        except RunError as failure:
            return RunError(f"{error}\n{failure}")
        if isinstance(error, LostRank):
            return error
        saved = f"step {self.progress.step}, which is saved"
        if self.progress.step > self.saved_step:
            saved = f"step {self.progress.step}; the last checkpoint is of step {self.saved_step}"
        return RunError(
            f"{error}\nThe run stopped after {saved}. Fix the data, or skip what is "
            "bad with on_bad_data: {kind: skip, budget: N} in its data set; then run the same command again to resume"
        )

    def _wait_for_checkpoint(self) -> None:
        """Wait, on all ranks, until the last checkpoint is on disk."""
        self.checkpoints.wait()
        self.ranks.barrier()

    def _result(self, *, trained: bool) -> RunResult:
        run, progress = self.checkpoints.run, self.progress
        best = None if progress.best_step is None else run.checkpoint_path(progress.best_step)
        last = run.checkpoint_path(self.saved_step) if self.saved_step else None
        return RunResult(run, progress.step, trained, progress.finished, last, best)
