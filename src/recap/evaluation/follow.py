"""Evaluation beside training: a process of its own that evaluates the checkpoints of a run as they appear."""

import errno
import fcntl
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from safetensors import SafetensorError
from torch.utils.tensorboard import SummaryWriter

from recap.config.recap import JobMode, RecapConfig
from recap.data.open import open_stream, refuse_caches_that_do_not_fit
from recap.data.stream.batch_stream import BatchStream
from recap.errors import CheckpointError, FollowingStopped, InputError, RecapError, RunError
from recap.evaluation.evaluate import evaluate
from recap.evaluation.run import check_splits, evaluation_config
from recap.model.directory import SavedModel, open_model
from recap.model.scorer import Scorer
from recap.reporting import Reporter
from recap.runs import Run
from recap.runtime import start_runtime
from recap.signals import collected_signals
from recap.storage import verify, writing

POLL_SECONDS = 0.5


def follow(
    load: Callable[[], RecapConfig],
    run: Path,
    reporter: Reporter,
    split: str | None = None,
    timeout: float | None = None,
) -> Path:
    """Evaluate each new checkpoint of `run`, which may not have begun, until it is finished; the file of results.

    One that appears while another is evaluated waits; of several that wait only the latest is taken. `load` gives what
    to evaluate on, as for `evaluate_run`, once there is a checkpoint. `timeout`: seconds without a new one. Raises
    RunError for these, InputError where another process follows the run, FollowingStopped.
    """
    with collected_signals() as signals:
        follower = _Follower(run, reporter, signals.received, split, timeout)
        if not follower.run.checkpoints:
            reporter.say(f"waiting for the first checkpoint of {run}")
        while not follower.run.checkpoints:
            follower.wait()
        with _results(follower.run.evaluations_file) as file:
            follower.evaluate_all(load(), file)
    return follower.run.evaluations_file


class _Follower:
    """Waits and evaluates."""

    def __init__(
        self, run: Path, reporter: Reporter, signals: list[int], split: str | None, timeout: float | None
    ) -> None:
        self.run, self.reporter, self.signals, self.split, self.timeout = Run(run), reporter, signals, split, timeout
        self.runtime = start_runtime()
        self.done = 0
        """The last step that was evaluated."""
        self.seen = time.monotonic()
        """When there was something to evaluate last."""

    def wait(self) -> None:
        """A moment. Raises RunError after too many of them, and FollowingStopped."""
        self._heed_signals()
        if self.timeout is not None and time.monotonic() - self.seen > self.timeout:
            raise RunError(
                f"{self.run.path}: no new checkpoint for {self.timeout:g} s (--timeout); {_evaluated(self.done)}. "
                "See whether the run goes on; follow it again with the same command"
            )
        time.sleep(POLL_SECONDS)

    def evaluate_all(self, config: RecapConfig, file: BinaryIO) -> None:
        """Until the run is finished."""
        check_splits(config, self.split)
        self.done = max((json.loads(line)["step"] for line in file), default=0)
        streams: dict[str, BatchStream] = {}
        damaged: set[tuple[int, int]] = set()
        with SummaryWriter(str(self.run.tensorboard / "evaluations"), purge_step=self.done + 1) as writer:
            while not self._finished():
                step = max(self.run.checkpoints, default=0)
                if step <= self.done or (step, _age(self.run, step)) in damaged:
                    self.wait()
                    continue
                self._tell_skipped(step)
                try:
                    model = self._opened(step)
                except CheckpointError as error:
                    self.reporter.say(f"{error}; it is not evaluated")
                    damaged.add((step, _age(self.run, step)))
                    continue
                if model is None:
                    continue
                combined = evaluation_config(config, model.config, self.run.checkpoint_path(step))
                streams = streams or self._streams(combined, model)
                self._evaluate(model, combined, streams, step, file, writer)

    def _opened(self, step: int) -> SavedModel | None:
        """The checkpoint of `step`; none if it is deleted meanwhile. Raises CheckpointError if it is damaged."""
        folder = self.run.checkpoint_path(step)
        try:
            return open_model(folder)
        except (RecapError, OSError, SafetensorError):
            if not folder.exists():
                return None
            verify(folder)
            raise

    def _streams(self, config: RecapConfig, model: SavedModel) -> dict[str, BatchStream]:
        """A stream for each validation set that was asked for."""
        splits = config.validation_data if self.split is None else [self.split]
        streams = {
            split: open_stream(config, model.assets, JobMode.EVALUATE, split, self.reporter.say) for split in splits
        }
        refuse_caches_that_do_not_fit(streams)
        return streams

    def _evaluate(
        self,
        model: SavedModel,
        config: RecapConfig,
        streams: dict[str, BatchStream],
        step: int,
        file: BinaryIO,
        writer: SummaryWriter,
    ) -> None:
        """All sets at `step`, into the file at once, so that a step is there with all its lines or not at all."""
        scorer, lines = Scorer.of(config, model.ranker.to(self.runtime.device)), ""
        for split, stream in streams.items():
            found = evaluate(
                scorer, stream.restarted(), config, split, self.runtime, lambda batches: self._heed_signals()
            )
            self.reporter.evaluated(step, split, found)
            for task, metrics in found.items():
                finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
                lines += json.dumps({"step": step, "split": split, "task": task, **finite}) + "\n"
                for name, value in metrics.items():
                    writer.add_scalar(f"{split}/{task}/{name}", value, step)
        with writing(self.run.evaluations_file):
            _append(file, lines.encode())
        writer.flush()
        self.done, self.seen = step, time.monotonic()

    def _tell_skipped(self, step: int) -> None:
        skipped = [str(each) for each in self.run.checkpoints if self.done < each < step]
        if skipped:
            self.reporter.say(f"passed over, since step {step} is there: step {', '.join(skipped)}")

    def _finished(self) -> bool:
        """Whether the checkpoint that was evaluated last ends the run."""
        with suppress(CheckpointError):
            state = self.run.state(self.done)
            return self.done == max(self.run.checkpoints) and state.get("finished") is True
        return False

    def _heed_signals(self) -> None:
        if self.signals:
            raise FollowingStopped(self.signals[0], self.done)


@contextmanager
def _results(path: Path) -> Iterator[BinaryIO]:
    """The file of results, at its first line, for this process alone; lines that are written go to its end."""
    with writing(path):
        file = path.open("a+b", buffering=0)
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{path}: another process follows this run; end it first") from None
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)  # a line that a kill cut
        file.seek(0)
        yield file


def _append(file: BinaryIO, lines: bytes) -> None:
    """All of it or nothing."""
    end = file.seek(0, os.SEEK_END)
    if file.write(lines) < len(lines):  # what fits a full disk is written without an error
        file.truncate(end)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _age(run: Run, step: int) -> int:
    """Tells a checkpoint from one that was written in its place; nanoseconds."""
    with suppress(OSError):
        return run.checkpoint_path(step).stat().st_mtime_ns
    return 0


def _evaluated(done: int) -> str:
    return f"the last checkpoint that was evaluated is step {done}" if done else "no checkpoint was evaluated"
