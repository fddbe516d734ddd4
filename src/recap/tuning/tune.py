"""`tune`: begins trials, answers them, and records how they end, until the study has the number that was asked for."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess

import optuna
import torch

from recap.errors import CheckpointError, CommandStopped, ConfigError, RunError
from recap.signals import Signals, collected_signals
from recap.text import plural, shorten
from recap.tuning.study import Study, Tried
from recap.tuning.trial import End, Value, run_trial

_POLL_SECONDS = 0.2
"""Time between two looks at whether a signal arrived."""
_IMPORTED = ("torch._dynamo", "recap.tracking.tensorboard", "pandas")
"""Modules that training imports late, if they are there: for a small network that takes longer than its training."""
_MAX_REASON = 5000
"""Characters of a failure that are recorded."""


@dataclass(frozen=True)
class Progress:
    """What `tune` calls."""

    began: Callable[[int, Mapping[str, object]], None] = lambda number, values: None
    """A trial begins or continues, with its number and values."""
    ended: Callable[[Tried, bool], None] = lambda trial, is_best: None
    """A trial has ended; whether it is the best so far."""


def tune(study: Study, trials: int, jobs: int, progress: Progress) -> None:
    """Run trials until the study has `trials`, failed ones too, or all that its space has; `jobs` at the same time.

    Raises RunError if all failed, CheckpointError if another process has a trial or its checkpoint is damaged, and
    CommandStopped after a signal: the trials save their step, and the next call continues them.
    """
    trials = study.limited(trials)
    with collected_signals() as signals:
        study.write()  # what a killed process did not write
        _Search(study, jobs, progress, signals).run(trials)
        study.write()  # with the trials that were stopped
        ended = [trial for trial in study.trials if trial.state != "interrupted"]
        if signals:
            raise CommandStopped(
                signals.received[0],
                f"{plural(len(ended), 'trial')} of {trials} ended, and the others are saved. To continue, run the same "
                "command again",
            )
        if ended and all(trial.state == "failed" for trial in ended):
            raise RunError(
                f"{study.folder}: all {plural(len(ended), 'trial')} failed, the last one: {ended[-1].reason}\n"
                "Fix this, and tune into another --output"
            )


@dataclass(frozen=True)
class _Running:
    """A trial in its process."""

    trial: optuna.Trial
    process: ForkServerProcess
    slot: int
    """Its number among those that run at the same time, from 0."""
    started: float


class _Search:
    """The trials that run at the same time."""

    def __init__(self, study: Study, jobs: int, progress: Progress, signals: Signals) -> None:
        self.study, self.jobs, self.progress, self.signals = study, jobs, progress, signals
        # A server imports torch once, and each trial is a copy of it; it computes nothing, so it may be copied.
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["__main__", run_trial.__module__, *_IMPORTED])
        self.waiting = study.interrupted()
        self.running: dict[Connection, _Running] = {}
        self.refused: str | None = None
        """Why no trial can go on."""

    def run(self, trials: int) -> None:
        """Run all trials; after a signal, or if one is refused, wait for those that run."""
        try:
            while True:
                while not self._is_ending() and len(self.running) < self.jobs:
                    if self.waiting:
                        self._begin(self.waiting.pop(0))
                    elif self.study.begun() < trials:
                        self._begin(self.study.begin())
                    else:
                        break
                if not self.running:
                    break
                if self._is_ending():
                    self._stop()
                for channel in wait(list(self.running), _POLL_SECONDS):
                    assert isinstance(channel, Connection)
                    self._receive(channel)
        finally:
            self._stop()
        if self.refused is not None and not self.signals:
            raise CheckpointError(self.refused)

    def _is_ending(self) -> bool:
        return bool(self.signals) or self.refused is not None

    def _begin(self, trial: optuna.Trial) -> None:
        """Start the process of a trial. Values that do not fit together fail without one."""
        self.progress.began(trial.number, self.study.space.values_of(trial.params))
        try:
            config = self.study.config_of(trial)
        except ConfigError as error:
            self._end(trial, End("failed", 0, f"the values do not fit together: {error}"))
            return
        slot = min(set(range(self.jobs)) - {running.slot for running in self.running.values()})
        ours, theirs = self.context.Pipe()
        process = self.context.Process(target=run_trial, args=(config, theirs, self.jobs, gpu_of(slot)))
        process.start()
        theirs.close()
        self.running[ours] = _Running(trial, process, slot, time.monotonic())

    def _receive(self, channel: Connection) -> None:
        """Answer a value, or record how a trial ended."""
        running = self.running[channel]
        message = self._message(running.process, channel)
        if isinstance(message, Value):
            ends_early = self.study.add_value(running.trial, *message)
            with suppress(OSError):  # a process that died meanwhile, which the next look finds
                channel.send(ends_early)
            return
        del self.running[channel]
        channel.close()
        running.process.join()
        self.study.add_seconds(running.trial, time.monotonic() - running.started)
        match message.state:
            case "interrupted":
                self.waiting.append(running.trial)
            case "refused":
                self.refused = message.reason
            case _:
                self._end(running.trial, message)

    def _message(self, process: ForkServerProcess, channel: Connection) -> Value | End:
        """The message of a trial, or how its process died."""
        try:
            message: Value | End = channel.recv()
            return message
        except (EOFError, OSError):
            process.join()
            if self._is_ending() and process.exitcode == -signal.SIGTERM:  # before its training, or after it
                return End("interrupted", 0)
            return End("failed", 0, _how_it_died(process.exitcode))

    def _end(self, trial: optuna.Trial, end: End) -> None:
        tried = self.study.end(trial, end._replace(reason=shorten(end.reason, _MAX_REASON)))
        best = self.study.best
        self.progress.ended(tried, best is not None and best.number == tried.number)

    def _stop(self) -> None:
        """Ask the trials to save and end, again and again until they do."""
        for running in self.running.values():
            if running.process.pid is not None and running.process.is_alive():
                os.kill(running.process.pid, signal.SIGTERM)


def gpu_of(slot: int) -> str | None:
    """The GPU for a trial, in turn; None if there is at most one."""
    stated = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = stated.split(",") if stated else [str(index) for index in range(torch.cuda.device_count())]
    return gpus[slot % len(gpus)] if len(gpus) > 1 else None


def _how_it_died(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        memory = ", as when the memory is exhausted" if -code == signal.SIGKILL else ""
        return f"its process was ended by {name}{memory}"
    return f"its process ended without a result (exit code {code})"
