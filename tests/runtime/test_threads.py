"""The number of threads that torch computes with."""

import os
from pathlib import Path

import pytest
import torch
import yaml
from support import Recorder, feed_values, write_feed

import recap.runtime
from recap.config.file.load import load_config
from recap.runtime import available_cpus, restored_threads, use_threads
from recap.training.trainer import train


@pytest.fixture(autouse=True)
def no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def threads(stated: int | None, step_flops: float) -> int:
    with restored_threads():
        torch.set_num_threads(2)
        use_threads(stated, step_flops)
        return torch.get_num_threads()


def test_a_small_network_computes_with_one_thread_and_a_large_one_with_all_cpus(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recap.runtime, "available_cpus", lambda: 2)
    assert (threads(None, 1e8), threads(None, 1e12)) == (1, 2)
    assert (threads(2, 1e8), threads(1, 1e12)) == (2, 1)


def test_the_variable_of_openmp_is_respected_unless_the_config_sets_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert (threads(None, 1e8), threads(1, 1e8)) == (2, 1)


@pytest.mark.parametrize(
    ("quota", "cpus"), [("150000 100000", 1), ("50000 100000", 1), ("max 100000", None), ("nonsense", None)]
)
def test_a_quota_limits_the_cpus(quota: str, cpus: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr(recap.runtime, "_GROUP", tmp_path)
    assert available_cpus() == (cpus or len(os.sched_getaffinity(0)))


def test_training_uses_the_threads_of_the_config_and_restores_those_of_the_process(tmp_path: Path) -> None:
    write_feed(tmp_path / "feed")
    values = feed_values(tmp_path / "feed", tmp_path / "run")
    values["training"] |= {"num_train_steps": 1, "threads": 2, "eval_log_every_n": None}
    file = tmp_path / "ranker.yaml"
    file.write_text(yaml.safe_dump(values))
    threads: list[int] = []
    recorder = Recorder(after_step={1: lambda: threads.append(torch.get_num_threads())})
    before = torch.get_num_threads()
    train(load_config(file), recorder)
    assert (threads, torch.get_num_threads()) == ([2], before)
