"""A complete file in the published form, and helpers that import changed copies of it."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from recap.config.file.load import load_config
from recap.config.recap import RecapConfig
from recap.errors import ConfigError
from recap.published.convert.config import Imported, import_config

COMPLETE = Path(__file__).parent / "whole.yaml"
SCHEMA = {"home__continuous": 60, "home__binary": 12, "author.follow": 5, "user.follow": 6, "user.engagement": 7}


def complete_values(folder: Path) -> dict[str, Any]:
    """The complete file as plain values, for a test to change; also writes its schema file."""
    schema = folder / "schema.json"
    entries = [{"feature_name": name, "dtype": "float_list", "length": length} for name, length in SCHEMA.items()]
    schema.write_text(json.dumps({"schema": entries}))
    values: dict[str, Any] = yaml.safe_load(
        COMPLETE.read_text().replace("SCHEMA", str(schema)).replace("1e-4", "1.0e-4")
    )
    return values


def imported(folder: Path, values: Any) -> Imported:
    file = folder / "published.yaml"
    file.write_text(values if isinstance(values, str) else yaml.dump(values, sort_keys=False))
    return import_config(str(file))


def read_back(folder: Path, result: Imported) -> RecapConfig:
    ours = folder / "ours.yaml"
    ours.write_text(result.text)
    return load_config(ours)


def refusals(folder: Path, values: Any) -> list[str]:
    """The lines of the error, without their origins."""
    with pytest.raises(ConfigError) as caught:
        imported(folder, values)
    return [f"{problem.path}: {problem.text}" for problem in caught.value.problems]


def set_at(values: Any, path: str, value: Any) -> None:
    *parents, last = path.split("/")
    for key in parents:
        values = values[int(key) if isinstance(values, list) else key]
    values[last] = value
