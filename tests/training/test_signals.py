"""Which work a signal interrupts, and when; tests/end_to_end/test_stop.py stops real processes."""

import importlib
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from support import Recorder, feed_config
from training.runs import assert_same_run, interrupt

from recap.data.stream.source import Loader
from recap.errors import Interrupted, RunError
from recap.runs import Run
from recap.signals import Signals, StopNow, Terminated, collected_signals, raise_lost_signal, stopped_by_signals
from recap.training.step import TrainStep
from recap.training.trainer import train

ALWAYS = 3600.0
"""A grace period longer than any test."""


def interrupt_and_wait() -> None:
    interrupt()
    wait_forever()


def wait_forever() -> None:
    while True:
        time.sleep(0.01)


def test_interruptible_work_ends_immediately_even_for_an_earlier_signal() -> None:
    with collected_signals(ALWAYS) as signals:
        with pytest.raises(StopNow), signals.interruptible():
            interrupt_and_wait()
        with pytest.raises(StopNow) as caught, signals.interruptible():
            wait_forever()
        assert caught.value.number == signal.SIGTERM


def interrupt_and_fail() -> None:
    try:
        interrupt_and_wait()
    finally:
        threading.Lock().release()  # as in Condition.wait, interrupted before it has taken its lock back


@pytest.mark.parametrize("work", [Signals.interruptible, Signals.interruptible_when_late])
def test_an_error_while_interrupted_work_cleans_up_does_not_replace_the_interruption(work: Any) -> None:
    with collected_signals(0.1) as signals, pytest.raises(StopNow) as caught, work(signals):
        interrupt_and_fail()
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_an_error_after_an_earlier_interruption_stays_an_error() -> None:
    with collected_signals(ALWAYS) as signals:
        with pytest.raises(StopNow), signals.interruptible():
            interrupt_and_wait()
        with pytest.raises(ZeroDivisionError), signals.interruptible_when_late():
            raise ZeroDivisionError


def test_a_closed_terminal_stops_a_run_unless_hangups_are_ignored() -> None:
    with collected_signals(ALWAYS) as signals:
        os.kill(os.getpid(), signal.SIGHUP)
        assert signals.received == [signal.SIGHUP]
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with collected_signals(ALWAYS) as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            assert signals.received == []
    finally:
        signal.signal(signal.SIGHUP, before)


def test_work_interruptible_when_late_ends_after_half_of_the_grace_period() -> None:
    with collected_signals(0.1) as signals, pytest.raises(StopNow), signals.interruptible_when_late():
        interrupt_and_wait()


def test_other_work_is_never_interrupted() -> None:
    with collected_signals(0.02) as signals:
        interrupt()
        interrupt()
        time.sleep(0.1)
        assert signals.received == [signal.SIGTERM] * 2


def test_an_error_that_replaces_the_end_of_a_command_is_no_traceback_and_other_errors_stay() -> None:
    class Interrupting:
        """Python 3.11 makes a RuntimeError of what is raised here."""

        def __set_name__(self, owner: type, name: str) -> None:
            interrupt()

    def reported() -> None:
        try:
            interrupt()
        except Terminated:
            raise RunError("reported") from None

    with pytest.raises(Terminated), stopped_by_signals():
        type("Owner", (), {"interrupting": Interrupting()})
    with pytest.raises(RunError), stopped_by_signals():
        reported()
    with pytest.raises(ValueError, match="mistake"), stopped_by_signals():
        raise ValueError("mistake")


def test_a_signal_whose_exception_python_dropped_is_raised_later() -> None:
    class Interrupting:
        def __del__(self) -> None:
            interrupt()

    def lost() -> None:
        sys.unraisablehook, before = (lambda unraisable: None), sys.unraisablehook
        try:
            Interrupting()
        finally:
            sys.unraisablehook = before

    def lost_then_raised() -> None:
        lost()
        raise_lost_signal()

    raise_lost_signal()
    with pytest.raises(Terminated), stopped_by_signals():
        lost_then_raised()
    raise_lost_signal()


def test_a_signal_during_an_import_ends_the_command_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ("import os, signal", "os.kill(os.getpid(), signal.SIGTERM)", "done = True")
    (tmp_path / "interrupted_import.py").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)

    def work() -> None:
        importlib.import_module("interrupted_import")
        time.sleep(60)

    with pytest.raises(Terminated), stopped_by_signals():
        work()
    assert sys.modules.pop("interrupted_import").done


def test_a_second_ctrl_c_goes_to_the_previous_handler_and_all_handlers_return() -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)
    before = [signal.getsignal(number) for number in numbers]
    with collected_signals(ALWAYS) as signals:
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.received == [signal.SIGINT]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert [signal.getsignal(number) for number in numbers] == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_hanging_step_is_interrupted_and_the_run_resumes_bit_for_bit(
    feed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gradients = TrainStep._gradients

    def hanging(self: TrainStep, batch: Any, step: int) -> torch.Tensor:
        losses = gradients(self, batch, step)
        if step == 6:
            interrupt()
            wait_forever()
        return losses

    whole, stopped = (
        feed_config(feed, tmp_path / name, training={"preemption_grace_seconds": 0.1}) for name in ("whole", "stopped")
    )
    train(whole, Recorder())
    with monkeypatch.context() as patched:
        patched.setattr(TrainStep, "_gradients", hanging)
        with pytest.raises(Interrupted, match="stopped by SIGTERM after step 5, which is saved"):
            train(stopped, Recorder())
        with pytest.raises(Interrupted, match="before another step finished; the checkpoint of step 5 is unchanged"):
            train(stopped, Recorder())
    train(stopped, Recorder())
    assert_same_run(tmp_path / "whole", tmp_path / "stopped", 12)


@pytest.mark.parametrize("windows", [0, 2])
def test_a_wait_for_data_is_interrupted_and_the_run_resumes_bit_for_bit(
    feed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, windows: int
) -> None:
    load, loads, end = Loader.load, iter(range(100)), threading.Event()

    def hanging(self: Loader, chunks: Any) -> Any:
        if next(loads) >= windows:
            interrupt()
            end.wait()
        return load(self, chunks)

    whole, stopped = (
        feed_config(feed, tmp_path / name, training={"preemption_grace_seconds": ALWAYS})
        for name in ("whole", "stopped")
    )
    train(whole, Recorder())
    with monkeypatch.context() as patched:
        patched.setattr(Loader, "load", hanging)
        with pytest.raises(Interrupted) as caught:
            train(stopped, Recorder())
        end.set()
    if windows == 0:
        assert "before the first step finished; nothing was saved" in str(caught.value)
        assert list(Run(tmp_path / "stopped").checkpoints) == []
    train(stopped, Recorder())
    assert_same_run(tmp_path / "whole", tmp_path / "stopped", 12)


def test_training_runs_off_the_main_thread_without_signal_handlers(feed: Path, tmp_path: Path) -> None:
    main, thread = (feed_config(feed, tmp_path / name) for name in ("main", "thread"))
    train(main, Recorder())
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)]
    handlers = []

    def look() -> None:
        handlers.append([signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)])

    with ThreadPoolExecutor(1) as pool:
        pool.submit(train, thread, Recorder({6: look})).result()
    assert handlers == [before]
    assert_same_run(tmp_path / "main", tmp_path / "thread", 12)
