"""Training: load, step, evaluate, save."""

import json
import time
from contextlib import closing, nullcontext
from pathlib import Path

from recap.config.load import dump_config
from recap.config.recap import JobMode, RecapConfig
from recap.data.assets import load_assets
from recap.data.batch import Batch
from recap.data.stream import open_stream, refuse_caches_that_do_not_fit
from recap.errors import DataError, RunError
from recap.evaluation.strata import Strata
from recap.model.directory import verify
from recap.model.saved import CONFIG, SavedModel, checkpoint_path, find_model_dir, load_weights, new_ranker
from recap.ranks import Ranks, joined_ranks
from recap.runtime import seed_torch, start_runtime
from recap.tracking import Reporter, Silent, Trackers, open_trackers
from recap.training.agreement import Agreement
from recap.training.balancing import build_balancing
from recap.training.checkpoint import Checkpoints, RunState, check_resumable, locked
from recap.training.evaluations import Evaluations, Stopped
from recap.training.log import TrainLog
from recap.training.optimizer import ScheduledOptimizer
from recap.training.signals import Interrupted, collected_signals
from recap.training.step import NotFinite, TrainStep
from recap.training.watch import Watch


def train(config: RecapConfig, reporter: Reporter, *, accept_changed_data: bool = False) -> bool:
    """Train until `num_train_steps` or `num_epochs`, from the latest checkpoint in `save_dir` if there is one.

    False: the run was finished before. `accept_changed_data`: go on though files are not those of the checkpoint.
    All ranks that `torchrun` started must call it; the first alone writes, and tells `reporter` how it goes.
    Raises DataError, CheckpointError, RunError (a loss that is not finite) and Interrupted (a signal).
    """
    with joined_ranks() as ranks:
        lock = locked(Path(config.training.save_dir)) if ranks.is_first else nullcontext()
        with lock, collected_signals() as signals:
            speaker = reporter if ranks.is_first else Silent()
            trainer = Trainer(config, speaker, signals, ranks, accept_changed_data=accept_changed_data)
            return trainer.run()


class Trainer:
    """One run, or the part that one rank has in it."""

    def __init__(
        self,
        config: RecapConfig,
        reporter: Reporter,
        signals: list[int],
        ranks: Ranks,
        *,
        accept_changed_data: bool = False,
    ) -> None:
        agreement = Agreement(ranks, signals)
        self.config, self.reporter, self.signals, self.ranks = config, reporter, agreement.signals, ranks
        self.runtime = start_runtime(ranks)
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
        self.model = SavedModel(config, assets, ranker)
        self.balancing = build_balancing(config, ranker, self.runtime.device)
        self.optimizer = ScheduledOptimizer(config, ranker, self.balancing.parameters())
        self.train_step = TrainStep(config, ranker, self.balancing, self.optimizer, self.runtime, agreement)
        self.evaluations = Evaluations(config, ranker, validation, self.runtime, reporter, agreement)
        self.save_dir = Path(config.training.save_dir)
        self.checkpoints = Checkpoints(self.save_dir)
        self.state = self._restore(accept_changed_data)
        self.watch = Watch(config.training.watch, self.state.watch)
        self.log = TrainLog(config, self.state, self.stream)
        data = {"train_data": self.stream.source.contents}
        data |= {split: stream.source.contents for split, stream in validation.items()}
        facts = {"the configuration": dump_config(config), "the files of data": json.dumps(data)}
        ranks.check_alike(facts | {"the latest checkpoint": str(self.state.step)})
        ranks.copy_from_first(list(ranker.state_dict().values()))
        if ranks.is_first:
            (self.save_dir / CONFIG).write_text(dump_config(config), encoding="utf-8")

    def run(self) -> bool:
        """Do every step that is left; False if the run is finished and nothing was."""
        state, training = self.state, self.config.training
        if self._is_last() and not self._evaluation_is_due():
            return False
        self.trackers = open_trackers(self.save_dir, state.step) if self.ranks.is_first else Trackers([])
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
        """One optimizer step over `batch`."""
        rates = self.optimizer.rates(self.state.step, self.watch.cut)
        try:
            losses = self.train_step(batch, self.state.step + 1, rates)
        except NotFinite as error:
            raise RunError(f"{error} (last checkpoint: {self.checkpoints.latest_or_none() or 'none'})") from None
        self.state.step += 1
        self.reporter.advance(self.state.step, self.log.add(losses), self.stream.batch_rows)

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
        record = self.log.record(self.optimizer.rates(state.step - 1, self.watch.cut), self.balancing.task_weights())
        self.trackers.log(record)
        self.reporter.logged(record)

    def _evaluate_if_due(self) -> bool:
        """Evaluate all validation sets if this step asks for it; say whether it was done."""
        state = self.state
        if not self._evaluation_is_due():
            return False
        started = time.monotonic()
        try:
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
        where = f": {checkpoint_path(self.save_dir, best)}" if best is not None else ""
        self.reporter.say(f"{self.watch.tell(best)}{where}")
        if self.watch.ended:
            self.reporter.say(
                f"stopped after step {self.state.step}: {waited} evaluations without a better value "
                "(training.watch.stop_after)"
            )

    def _save(self) -> None:
        self.state.stream = self.stream.state_dict()
        if self.ranks.is_first:
            self.checkpoints.save(self.model, self.optimizer, self.balancing, self.state)
        self.ranks.wait()  # what is said to be saved is saved

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
