"""`recap evaluate --follow`: evaluates the checkpoints of a run, in a separate process, as they appear."""

import fcntl
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from recap.config.recap import JobMode, RecapConfig
from recap.data.open import check_caches_fit, open_stream
from recap.data.stream.batch_stream import BatchStream
from recap.errors import CheckpointError, CommandStopped, InputError, RecapError, RunError
from recap.evaluation.evaluate import evaluate
from recap.evaluation.observers.metrics import Metrics
from recap.evaluation.result import records
from recap.evaluation.run import check_splits, evaluation_config, max_batches
from recap.model.directory import SavedModel, open_model
from recap.reporting import Record, Reporter, Tracker
from recap.runs import Run
from recap.runtime import start_runtime
from recap.signals import collected_signals
from recap.storage import AppendOnlyFile, verify, writing

POLL_SECONDS = 0.5
OpenTracker = Callable[[Run, int], Tracker]
"""(run, step) → a tracker for the evaluations of the run, continued after the step."""


def follow(
    load: Callable[[], RecapConfig],
    run: Path,
    reporter: Reporter,
    split: str | None = None,
    timeout: float | None = None,
    open_tracker: OpenTracker | None = None,
) -> Path:
    """Evaluate each new checkpoint of `run`, which may not exist yet, until the run is finished; return their file.

    If several checkpoints appear during an evaluation, only the latest is evaluated next. `load` is called after the
    first checkpoint; it returns the configuration, as for `evaluate_run`. `timeout`: seconds to wait for a new
    checkpoint. Raises RunError after `timeout`, InputError if another process follows the run, CommandStopped on a
    signal.
    """
    with collected_signals() as signals:
        follower = _Follower(run, reporter, signals.received, split, timeout)
        if not follower.run.checkpoints:
            reporter.say(f"waiting for the first checkpoint of {run}")
        while not follower.run.checkpoints:
            follower.wait()
        with _results(follower.run.evaluations_file) as (step, file):
            tracker = open_tracker(follower.run, step) if open_tracker is not None else None
            finished = False
            try:
                follower.evaluate_all(load(), step, file, tracker)
                finished = True
            finally:
                if tracker is not None:
                    tracker.close(finished=finished)
    return follower.run.evaluations_file


class _Follower:
    """Waits for checkpoints and evaluates them."""

    def __init__(
        self, run: Path, reporter: Reporter, signals: list[int], split: str | None, timeout: float | None
    ) -> None:
        self.run, self.reporter, self.signals, self.split, self.timeout = Run(run), reporter, signals, split, timeout
        self.runtime = start_runtime()
        self.done = 0
        """The last step that was evaluated."""
        self.active = time.monotonic()
        """When the last evaluation ended."""

    def wait(self) -> None:
        """Sleep before looking for checkpoints again. Raises RunError after the timeout, and CommandStopped."""
        self._check_signals()
        if self.timeout is not None and time.monotonic() - self.active > self.timeout:
            raise RunError(
                f"{self.run.path}: no new checkpoint for {self.timeout:g} s (--timeout); {self._progress()}. "
                "Check that the run is still training, then run the same command again"
            )
        time.sleep(POLL_SECONDS)

    def evaluate_all(self, config: RecapConfig, step: int, file: AppendOnlyFile, tracker: Tracker | None) -> None:
        """Evaluate the checkpoints after `step` until the run is finished."""
        check_splits(config, self.split)
        self.done = step
        streams: dict[str, BatchStream] = {}
        damaged: set[tuple[int, int]] = set()
        while not self._finished():
            step = max(self.run.checkpoints, default=0)
            if step <= self.done or (step, _written_at(self.run, step)) in damaged:
                self.wait()
                continue
            self._report_skipped(step)
            try:
                model = self._open(step)
            except CheckpointError as error:
                self.reporter.say(f"{error}; it is not evaluated")
                damaged.add((step, _written_at(self.run, step)))
                continue
            if model is None:
                continue
            combined = evaluation_config(config, model.config, self.run.checkpoint_path(step))
            streams = streams or self._streams(combined, model)
            lines = self._evaluate(model, combined, streams, step)
            with writing(self.run.evaluations_file):
                file.append("".join(json.dumps(record) + "\n" for record in lines).encode())
            if tracker is not None:
                for record in lines:
                    tracker.log(record)
            self.done, self.active = step, time.monotonic()

    def _open(self, step: int) -> SavedModel | None:
        """The model of the checkpoint of `step`; None if it was deleted meanwhile. Raises CheckpointError."""
        folder = self.run.checkpoint_path(step)
        try:
            return open_model(folder)
        except (RecapError, OSError, SafetensorError):
            if not folder.exists():
                return None
            verify(folder)
            raise

    def _streams(self, config: RecapConfig, model: SavedModel) -> dict[str, BatchStream]:
        """The streams of the splits to evaluate."""
        splits = config.validation_data if self.split is None else [self.split]
        streams = {
            split: open_stream(config, model.assets, JobMode.EVALUATE, split, self.reporter.say) for split in splits
        }
        check_caches_fit(streams)
        return streams

    def _evaluate(
        self, model: SavedModel, config: RecapConfig, streams: dict[str, BatchStream], step: int
    ) -> list[Record]:
        """Evaluate a checkpoint on all streams; return the records."""
        scorer = model.scorer(config, self.runtime.device)
        lines: list[Record] = []
        for split, stream in streams.items():
            observer = Metrics(config, split, self.runtime.ranks, intervals=False)
            evaluate(scorer, stream.restarted(), [observer], max_batches(config), lambda _: self._check_signals())
            metrics = observer.result()
            self.reporter.evaluated(step, split, metrics)
            lines += records(step, split, metrics)
        return lines

    def _report_skipped(self, step: int) -> None:
        skipped = [str(other) for other in self.run.checkpoints if self.done < other < step]
        if skipped:
            self.reporter.say(f"skipped, because step {step} is newer: step {', '.join(skipped)}")

    def _finished(self) -> bool:
        """Whether the last evaluated checkpoint is the last of a finished run."""
        with suppress(CheckpointError):
            state = self.run.state(self.done)
            return self.done == max(self.run.checkpoints) and state.get("finished") is True
        return False

    def _check_signals(self) -> None:
        if self.signals:
            raise CommandStopped(self.signals[0], self._progress())

    def _progress(self) -> str:
        return f"the last checkpoint evaluated is step {self.done}" if self.done else "no checkpoint was evaluated"


@contextmanager
def _results(path: Path) -> Iterator[tuple[int, AppendOnlyFile]]:
    """Lock the file of results; yield the last step in it, and the file to append to."""
    with writing(path):
        lock = path.open("a+b", buffering=0)
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{path}: another process follows this run; stop it first") from None
        lock.seek(0)
        content = lock.read()
        complete = content.rfind(b"\n") + 1
        lock.truncate(complete)  # a killed process may have left part of a line
        step = max((_step_of(line, path) for line in content[:complete].splitlines()), default=0)
        with writing(path):
            file = AppendOnlyFile(path)
        try:
            yield step, file
        finally:
            file.close()


def _step_of(line: bytes, path: Path) -> int:
    """The step of a line of results. Raises InputError."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError, RecursionError):
        raise InputError(f"{path}: damaged; delete it to evaluate the remaining checkpoints again") from None


def _written_at(run: Run, step: int) -> int:
    """When the checkpoint was written, in nanoseconds; a rewritten checkpoint of the same step has another time."""
    with suppress(OSError):
        return run.checkpoint_path(step).stat().st_mtime_ns
    return 0
