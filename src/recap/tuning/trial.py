"""One trial: a run in a process of its own, so that running out of memory ends the trial and not the study."""

import math
import os
import signal
import threading
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing import connection, parent_process
from multiprocessing.connection import Connection
from typing import Literal, NamedTuple

import torch

from recap.config.recap import RecapConfig
from recap.config.training import WatchConfig
from recap.errors import CheckpointError, Interrupted, RecapError
from recap.native.allocator import tune_process
from recap.reporting import Reporter
from recap.runtime import available_cpus
from recap.training.trainer import train
from recap.training.watch import watched_value


class Value(NamedTuple):
    """A message of a trial: the value of the watched metric at a step. The answer is whether the trial ends."""

    step: int
    value: float


class End(NamedTuple):
    """The last message of a trial: how it ended."""

    state: Literal["complete", "pruned", "failed", "interrupted", "refused"]
    steps: int
    """Its last step."""
    reason: str = ""
    """Why it failed, or no trial can go on."""


class Pruned(Exception):
    """The study ends this trial early."""


class _Reports(Reporter):
    """Sends each watched value to the study."""

    def __init__(self, watch: WatchConfig, channel: Connection) -> None:
        self.watch, self.channel = watch, channel
        self.step = 0

    def advance(self, step: int, loss: float, examples: int, losses: Mapping[str, float], waited: float) -> None:
        self.step = step

    def evaluated(self, step: int, split: str, evaluation: Mapping[str, Mapping[str, float]]) -> None:
        value = watched_value(self.watch, evaluation)
        if math.isfinite(value):
            self.channel.send(Value(step, value))
            if self.channel.recv():
                raise Pruned


def run_trial(config: RecapConfig, channel: Connection, jobs: int, gpu: str | None) -> None:
    """Train, or resume training; the body of a process.

    `config` has the watched split alone. `jobs`: trials at the same time, which share the CPUs. `gpu`: the GPU to use,
    as `CUDA_VISIBLE_DEVICES` names it; None for any.
    """
    os.setpgid(0, 0)  # Ctrl-C reaches the study alone, which passes it on
    threading.Thread(target=_end_with_study, daemon=True).start()
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    tune_process()
    if jobs > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, available_cpus() // jobs))
    assert config.training.watch is not None
    reports = _Reports(config.training.watch, channel)
    try:
        end = End("complete", train(config, reports).steps)
    except Pruned:
        end = End("pruned", reports.step)
    except Interrupted:
        end = End("interrupted", reports.step)
    except CheckpointError as error:  # not a matter of the values: another process, or a damaged file
        end = End("refused", reports.step, str(error))
    except RecapError as error:
        end = End("failed", reports.step, str(error))
    except Exception as error:  # such as the error of torch for exhausted memory
        end = End("failed", reports.step, f"{type(error).__name__}: {error}")
    with suppress(OSError):  # the study is gone; it will find the last checkpoint
        channel.send(end)


def _end_with_study() -> None:
    """Save and end when the study is gone: a killed one cannot stop its trials."""
    study = parent_process()
    if study is not None:
        connection.wait([study.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
