"""Training: load, step, evaluate, save."""

import gc
import json
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path

from recap.config.file.load import dump_config
from recap.config.recap import JobMode, RecapConfig
from recap.data.batch import Batch
from recap.data.encoding.assets import load_assets
from recap.data.open import open_stream, refuse_caches_that_do_not_fit
from recap.distributed import Consensus, Ranks, joined_ranks
from recap.errors import DataError, Interrupted, NotFinite, RunError
from recap.evaluation.observers.strata import Strata
from recap.model.directory import SavedModel, new_ranker, verify_model
from recap.model.frozen import freeze
from recap.reporting import Reporter
from recap.runs import Run, find_model_directory
from recap.runtime import seed_torch, start_runtime
from recap.signals import Signals, StopNow, collected_signals
from recap.storage import replace_text
from recap.tracking.open import Trackers, open_trackers
from recap.training.average import WeightAverage
from recap.training.balancing import build_balancing
from recap.training.checkpoints import Checkpoints, RunState, check_resumable
from recap.training.evaluations import Evaluations, Stopped
from recap.training.finite import not_finite
from recap.training.log import TrainLog, running_on
from recap.training.non_finite import RolledBack, build_policy, with_rows
from recap.training.norms import weight_norms
from recap.training.optimizer.scheduled import ScheduledOptimizer
from recap.training.profile import Profile, span
from recap.training.step import TrainStep
from recap.training.warm_start import start_from
from recap.training.watch import Watch


def train(
    config: RecapConfig, reporter: Reporter, *, accept_changed_data: bool = False, profile_steps: int = 0
) -> bool:
    """Train until `num_train_steps` or `num_epochs`, from the latest checkpoint in `save_dir` if there is one.

    False: the run was finished before. `accept_changed_data`: go on though files are not those of the checkpoint.
    `profile_steps`: profile so many steps, none if 0. All ranks that `torchrun` started must call it; the first alone
    writes, and tells `reporter` how it goes.
    Raises DataError, CheckpointError, RunError (numbers that are not finite) and Interrupted (a signal).
    """
    save_dir, grace = Path(config.training.save_dir), config.training.preemption_grace_seconds
    with joined_ranks() as ranks:
        lock = Run(save_dir).lock() if ranks.is_first else nullcontext()
        speaker = reporter if ranks.is_first else Reporter()
        with lock, collected_signals(grace, may_interrupt=ranks.is_alone) as signals:
            profiled = profile_steps and ranks.is_first
            rolled_back: list[list[int]] = []
            while True:
                try:
                    with _opening(save_dir, signals):
                        trainer = Trainer(config, speaker, signals, ranks, accept_changed_data=accept_changed_data)
                    trainer.state.rolled_back = rolled_back or trainer.state.rolled_back
                    profile = Profile(profile_steps, Run(save_dir).profile, reporter.say) if profiled else None
                    return trainer.run(profile)
                except RolledBack as error:
                    speaker.say(str(error))
                    rolled_back = error.rolled_back
                gc.collect()  # what went bad gives its memory back before the run is built again


@contextmanager
def _opening(save_dir: Path, signals: Signals) -> Iterator[None]:
    """A run is opened here; a signal ends that at once."""
    try:
        with signals.interruptible():
            yield
    except StopNow as stop:
        step = max(Run(save_dir).checkpoints, default=0)
        raise Interrupted(stop.number, step, done=False) from None


class Trainer:
    """One run, or the part that one rank has in it."""

    def __init__(
        self,
        config: RecapConfig,
        reporter: Reporter,
        signals: Signals,
        ranks: Ranks,
        *,
        accept_changed_data: bool = False,
    ) -> None:
        consensus = Consensus(ranks, signals)
        self.config, self.reporter, self.ranks = config, reporter, ranks
        self.received, self.consensus = signals, consensus
        self.runtime = start_runtime(ranks, config.training.precision)
        assets = load_assets(config.features)
        self.stream = open_stream(config, assets, JobMode.TRAIN, say=reporter.say, ranks=ranks)
        # All opened now: data that disagrees with the configuration is refused before the first step.
        validation = {
            split: open_stream(config, assets, JobMode.EVALUATE, split, reporter.say, ranks)
            for split in config.validation_data
        }
        Strata(config, assets)
        refuse_caches_that_do_not_fit({"train_data": self.stream, **validation})
        seed_torch(config.training.seed, 0)
        ranker = new_ranker(config, assets).to(self.runtime.device)
        freeze(ranker, config.optimizer.frozen)
        self.model = SavedModel(config, assets, ranker)
        self.balancing = build_balancing(config, ranker, self.runtime.device)
        self.optimizer = ScheduledOptimizer(config, ranker, self.balancing.parameters())
        self.average = WeightAverage(config.training.ema, ranker)
        self.policy = build_policy(config.training.non_finite)
        self.evaluations = Evaluations(config, ranker, validation, self.runtime, reporter, consensus)
        self.save_dir = Path(config.training.save_dir)
        self.checkpoints = Checkpoints(self.save_dir)
        self.state = self._restore(accept_changed_data)
        self.state.stream = self.stream.state_dict()
        self.saved_step = self.state.step
        parts = (self.balancing, self.optimizer, self.average, self.runtime, consensus)
        self.train_step = TrainStep(config, ranker, *parts, self.state.loss_scale)
        self.watch = Watch(config.training.watch, self.state.watch)
        self.log = TrainLog(config, self.state, self.stream)
        data = {"train_data": self.stream.source.contents}
        data |= {split: stream.source.contents for split, stream in validation.items()}
        facts = {"the configuration": dump_config(config), "the files of data": json.dumps(data)}
        ranks.check_equal(facts | {"the latest checkpoint": str(self.state.step)})
        ranks.broadcast_(list(ranker.state_dict().values()))
        if ranks.is_first:
            replace_text(Run(self.save_dir).config_file, dump_config(config))

    def run(self, profile: Profile | None = None) -> bool:
        """Do every step that is left; False if the run is finished and nothing was."""
        state, training = self.state, self.config.training
        if self._is_last() and not self._evaluation_is_due():
            return False
        began_after = state.step
        self.trackers = (
            open_trackers(self.config, state.step, self.reporter.say) if self.ranks.is_first else Trackers([])
        )
        left = self.stream.rows_left
        steps = None if left is None else state.step + left // self.config.train_data.rows_of_a_step
        in_all = training.num_train_steps if steps is None else min(training.num_train_steps, steps)
        on = running_on(self.runtime, self.model.ranker)
        rows, epochs = self.stream.order.rows, in_all * self.config.train_data.rows_of_a_step / self.stream.order.rows
        self.reporter.start(self.save_dir, state.step, in_all, rows, epochs, on)
        self.model.ranker.train()
        try:
            if self._evaluate_if_due():  # a signal had cut it short
                self._save()
            with closing(iter(self.stream)) as batches:
                if profile is not None:
                    profile.start()
                while not self._is_last():
                    with self.log.waiting():
                        batch = self._next(batches)
                    if batch is not None:
                        self._step(batch)
                    elif not state.step:
                        raise DataError("train_data: too few good rows are left for a single step; mend the data")
                    state.stream = self.stream.state_dict()
                    self._log_if_due()
                    self._evaluate_if_due()
                    self._log_if_due()  # what was seen may have made this step the last
                    if (
                        self._due(training.checkpoint_every_n)
                        or state.best_step == state.step
                        or self.consensus.signals
                    ):
                        self._save()
                    if profile is not None:
                        profile.step()
                    if self.consensus.signals:
                        break
            if self.consensus.signals:
                raise StopNow(self.consensus.signals[0])
            self._wait_for_checkpoint()
            self._tell_best()
        except StopNow as stop:
            if state.step > self.saved_step:  # a wait for data or a long step was given up
                self._save()
            self._wait_for_checkpoint()
            raise Interrupted(stop.number, state.step, done=state.step > began_after) from None
        finally:
            if profile is not None:
                profile.stop()
            self.checkpoints.close()
            self.trackers.close(finished=self._is_last())
            self.reporter.stop()
        return True

    def _next(self, batches: Iterator[Batch]) -> Batch | None:
        """The next batch, if there is one, but for those that made the run go back. A signal ends the wait for it."""
        with self.received.interruptible():
            return next((batch for batch in batches if self.stream.batch_place not in self.state.rolled_back), None)

    def _step(self, batch: Batch) -> None:
        """One optimizer step over `batch`."""
        rates = self.optimizer.rates(self.state.step, self.watch.cut)
        try:
            losses = self.train_step(batch, self.state.step + 1, rates)
        except NotFinite as error:
            told = with_rows(error, self.train_step, batch, self.stream)
            told += f" (last checkpoint: {self.checkpoints.latest_or_none() or 'none'})"
            self.reporter.say(self.policy(self.state, told, self.stream.batch_place))
            self.state.step += 1
            return
        self.state.step += 1
        loss = self.log.add(losses)
        self.reporter.advance(self.state.step, loss, self.stream.batch_rows, self.log.losses, self.log.waited)

    def _is_last(self) -> bool:
        """Whether no step is left: all are done, each row was seen often enough, or nothing improves any more."""
        return self.state.step >= self.config.training.num_train_steps or self.stream.ended or self.watch.ended

    def _due(self, every: int) -> bool:
        return self.state.step > 0 and (self.state.step % every == 0 or self._is_last())

    def _evaluation_is_due(self) -> bool:
        every = self.config.training.eval_log_every_n
        return every is not None and self._due(every) and self.state.evaluated_step < self.state.step

    def _log_if_due(self) -> None:
        """Mean losses since the last line, and the rates of the step just done."""
        state = self.state
        if not self._due(self.config.training.train_log_every_n) or not state.loss_steps:
            return
        with span("logging"):
            rates = self.optimizer.rates(state.step - 1, self.watch.cut)
            record = {**self.log.record(rates, self.balancing.task_weights()), **self._norms()}
            if self.train_step.scale.used:
                record["loss_scale"] = self.train_step.scale.factor
            self.trackers.log(record)
            self.reporter.logged(record)

    def _norms(self) -> dict[str, float]:
        """What a record says of the norms of gradients and weights."""
        norm = self.train_step.gradient_norm
        found = {} if norm is None else {"gradient_norm": norm}
        return found | (weight_norms(self.model.ranker) if self.config.training.log_norms else {})

    def _evaluate_if_due(self) -> bool:
        """Evaluate all validation sets if this step asks for it; say whether it was done."""
        state = self.state
        if not self._evaluation_is_due():
            return False
        started = time.monotonic()
        try:
            with span("evaluation"), self.average.applied():
                evaluations = self.evaluations(state.step, self.trackers)
        except Stopped:
            return False
        if self.watch.see(evaluations):
            state.best_step = state.step
        state.evaluated_step = state.step
        self.log.pause(time.monotonic() - started)
        return True

    def _tell_best(self) -> None:
        """Say where the best model is, and whether waiting for a better one ended the run."""
        if self.watch.config is None:
            return
        best, waited = self.state.best_step, self.state.watch.waited
        self.reporter.say(self.watch.tell(best))
        if self.watch.ended:
            self.reporter.say(
                f"stopped after step {self.state.step}: {waited} evaluations without a better value "
                "(training.watch.stop_after)"
            )

    def _save(self) -> None:
        with span("checkpoint"):
            bad = not_finite({**self.model.ranker.state_dict(), **self.optimizer.state_dict()})
            if bad:
                raise RunError(
                    f"after step {self.state.step} {bad[0]} is not finite, so it was not saved (last checkpoint: "
                    f"{self.checkpoints.latest_or_none() or 'none'}). Lower the learning rates, or lengthen their ramp"
                )
            self.saved_step = self.state.step
            self.state.finished = self._is_last() and not self._evaluation_is_due()
            if self.ranks.is_first:
                self.checkpoints.save(self.model, self.optimizer, self.balancing, self.average, self.state)

    def _wait_for_checkpoint(self) -> None:
        """Until what is said to be saved is saved."""
        self.checkpoints.wait()
        self.ranks.barrier()

    def _restore(self, accept_changed_data: bool) -> RunState:
        """The state of the latest checkpoint, or of a new run: fresh or warm-started weights."""
        found = self.checkpoints.latest_whole_step(self.reporter.say) if self.ranks.is_first else None
        step = self.ranks.broadcast_object(found)
        if step is None:
            warm_start = self.config.training.initial_checkpoint_dir
            if warm_start is not None:
                folder = find_model_directory(Path(warm_start))
                verify_model(folder)
                for line in start_from(folder, self.model.ranker, self.config.training.initial_weights):
                    self.reporter.say(line)
                self.average.restart()
            return RunState()
        latest = Run(self.save_dir).checkpoint_path(step)
        for change in check_resumable(latest, self.config, self.model.assets):
            self.reporter.say(f"changed since {latest.name}: {change}")
        state = self.checkpoints.restore(latest, self.model, self.optimizer, self.balancing, self.average)
        self.stream.load_state_dict(state.stream, accept_changes=accept_changed_data)
        return state
