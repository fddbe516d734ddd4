"""What a signal ends, and when; real processes are stopped in tests/end_to_end/test_stop.py."""

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from support import Recorder, feed_config
from training.runs import assert_same_run, interrupt

from recap.data.stream.source import Loader
from recap.errors import Interrupted
from recap.runs import Run
from recap.signals import StopNow, collected_signals
from recap.training.step import TrainStep
from recap.training.trainer import train

ALWAYS = 3600.0
"""A grace period that never ends."""


def interrupt_and_wait() -> None:
    interrupt()
    wait_for_ever()


def wait_for_ever() -> None:
    while True:
        time.sleep(0.01)


def test_what_loses_nothing_is_given_up_at_once_also_for_a_signal_that_came_before() -> None:
    with collected_signals(ALWAYS) as signals:
        with pytest.raises(StopNow), signals.at_once():
            interrupt_and_wait()
        with pytest.raises(StopNow) as caught, signals.at_once():
            wait_for_ever()
        assert caught.value.number == signal.SIGTERM


def test_what_should_be_finished_is_given_up_after_half_of_the_grace_period() -> None:
    with collected_signals(0.1) as signals, pytest.raises(StopNow), signals.when_late():
        interrupt_and_wait()


def test_other_work_is_never_given_up() -> None:
    with collected_signals(0.02) as signals:
        interrupt()
        interrupt()
        time.sleep(0.1)
        assert signals == [signal.SIGTERM] * 2


def test_a_second_ctrl_c_is_answered_as_before_and_all_is_as_before_in_the_end() -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
    before = [signal.getsignal(number) for number in numbers]
    with collected_signals(ALWAYS) as signals:
        os.kill(os.getpid(), signal.SIGINT)
        assert signals == [signal.SIGINT]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert [signal.getsignal(number) for number in numbers] == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_step_that_hangs_is_given_up_and_the_run_goes_on_bit_for_bit(
    feed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gradients = TrainStep._gradients

    def hanging(self: TrainStep, batch: Any, step: int) -> torch.Tensor:
        losses = gradients(self, batch, step)
        if step == 6:
            interrupt()
            wait_for_ever()
        return losses

    whole, stopped = (
        feed_config(feed, tmp_path / name, training={"preemption_grace_seconds": 0.1}) for name in ("whole", "stopped")
    )
    train(whole, Recorder())
    with monkeypatch.context() as patched:
        patched.setattr(TrainStep, "_gradients", hanging)
        with pytest.raises(Interrupted, match="stopped by SIGTERM after step 5, which is saved"):
            train(stopped, Recorder())
        with pytest.raises(Interrupted, match="before another step was done; the checkpoint of step 5 is as it was"):
            train(stopped, Recorder())
    train(stopped, Recorder())
    assert_same_run(tmp_path / "whole", tmp_path / "stopped", 12)


@pytest.mark.parametrize("windows", [0, 2])
def test_a_wait_for_data_is_given_up_and_the_run_goes_on_bit_for_bit(
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
        assert "before the first step was done; nothing was saved" in str(caught.value)
        assert list(Run(tmp_path / "stopped").checkpoints) == []
    train(stopped, Recorder())
    assert_same_run(tmp_path / "whole", tmp_path / "stopped", 12)
