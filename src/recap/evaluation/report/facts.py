"""The facts of a report: where its numbers come from."""

import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import torch

import recap
from recap.config.base import dotted
from recap.config.file.diff import ABSENT, differences
from recap.config.file.load import stored_values
from recap.config.file.yaml import render_inline
from recap.config.recap import RecapConfig
from recap.evaluation.sides import Side
from recap.model.directory import WEIGHTS
from recap.runtime import Runtime
from recap.storage import read_manifest
from recap.text import plural, shorten

_MAX_VALUE = 400
"""Characters of a value of the configuration."""
_MAX_CHANGES = 300
"""Settings of a comparison of configurations."""


def facts(
    side: Side, baseline: Side | None, config: RecapConfig, split: str, window: Mapping[str, str], runtime: Runtime
) -> dict[str, dict[str, str]]:
    """Heading → name → text. `window`: facts about the time of the data."""
    values = stored_values(config)
    training = config.training
    sides = {"model": side} | ({"baseline": baseline} if baseline is not None else {})
    checksums = {f"weights of the {name}": _checksum(each) for name, each in sides.items()}
    return {
        "Data": {
            "evaluated": _inputs(values["validation_data"][split]),
            "trained on": _inputs(values["train_data"]),
            "batches evaluated": "all" if training.num_eval_steps < 0 else f"{training.num_eval_steps:,}",
            **window,
        },
        "Training": _training(side, config),
        "Versions": {
            "recap": recap.__version__,
            "Python": platform.python_version(),
            "PyTorch": torch.__version__,
        },
        "Evaluation": {
            "written": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
            "device": _device(runtime),
            "threads": str(torch.get_num_threads()),
            "system": f"{platform.system()} on {platform.machine()}",
        },
        "Checksums (SHA-256)": checksums,
    }


def _training(side: Side, config: RecapConfig) -> dict[str, str]:
    parameters = sum(weight.numel() for weight in side.model.ranker.parameters())
    rows = {
        "checkpoint": side.folder.name,
        "parameters": f"{parameters:,}",
        "rows per step": f"{config.train_data.global_batch_size:,}",
        "seed": str(config.training.seed),
        "precision": config.training.precision,
    }
    logged = [record for record in side.records() if record.get("split") == "train"]
    if logged:
        rows["steps"] = f"{logged[-1]['step']:,} (epoch {logged[-1].get('epoch', 0):.2f})"
        speeds = sorted(record["examples_per_second"] for record in logged if "examples_per_second" in record)
        if speeds:
            rows["speed"] = f"{speeds[len(speeds) // 2]:,.0f} examples/s (median)"
    return rows


def config_changes(before: RecapConfig, after: RecapConfig) -> list[tuple[str, str, str]]:
    """[path, before, after] of every setting that differs; the last line says how many more there are."""
    changes = [(dotted(path), _text(old), _text(new)) for path, (old, new) in differences(before, after).items()]
    more = len(changes) - _MAX_CHANGES
    return changes if more <= 0 else [*changes[:_MAX_CHANGES], (f"and {plural(more, 'more setting')}", "", "")]


def _text(value: object) -> str:
    return "nothing" if value is ABSENT else shorten(render_inline(value), _MAX_VALUE)


def _inputs(data: Any) -> str:
    inputs = data["source"]["inputs"]
    return shorten(", ".join(inputs), _MAX_VALUE) if isinstance(inputs, list) else _text(inputs)


def _checksum(side: Side) -> str:
    return read_manifest(side.folder).files[WEIGHTS]


def _device(runtime: Runtime) -> str:
    return torch.cuda.get_device_name(runtime.device) if runtime.device.type == "cuda" else "CPU"
