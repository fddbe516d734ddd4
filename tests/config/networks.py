"""Configurations with a network of choice, and what is wrong with them."""

from pathlib import Path
from typing import Any

import pytest
from support import feed_values

from recap.config.file.load import config_of
from recap.errors import ConfigError

MLP = {"kind": "mlp", "layer_sizes": [8, 4]}
MIXER = {"kind": "rank_mixer", "num_tokens": 4, "width": 8, "num_layers": 1}


def values_with(backbone: dict[str, Any] | None, **model: Any) -> dict[str, Any]:
    values = feed_values(Path("feed"), Path("run"))
    values["model"] |= {"backbone": backbone, **model}
    return values


def problems(values: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        config_of(values)
    return [f"{problem.path}: {problem.text}" for problem in caught.value.problems]
