"""Helpers that stop runs and compare them."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from recap.runs import Run

TIMED = ("examples_per_second", "data_wait")
"""Fields of a record that differ between any two runs."""


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def files(run: Path, step: int, name: str) -> dict[str, torch.Tensor]:
    return load_file(Run(run).checkpoint_path(step) / name)


def assert_same_run(left: Path, right: Path, step: int) -> None:
    """Assert that weights, moments, state and records (except speed) are the same bit for bit."""
    names = [{file.name for file in Run(run).checkpoint_path(step).glob("*.safetensors")} for run in (left, right)]
    assert names[0] == names[1]
    for name in names[0]:
        first, second = files(left, step, name), files(right, step, name)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first), name
    for name in ("state.json", "statistics.json"):
        texts = [(Run(run).checkpoint_path(step) / name).read_text() for run in (left, right)]
        assert texts[0] == texts[1], name
    assert records(left) == records(right)


def records(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMED} for line in lines]
