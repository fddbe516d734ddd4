"""The file of aggregates → `AggregatesConfig`, with the origin of every mistake."""

from pathlib import Path

from recap.config.aggregates.spec import AggregatesConfig
from recap.config.file.environment import substitute
from recap.config.file.layers import read_mapping
from recap.config.file.validate import validate
from recap.errors import Problem


def load_spec(file: str | Path) -> AggregatesConfig:
    """Raises ConfigError, which lists every problem as `file:line:column: path: message`."""
    problems: list[Problem] = []
    root = read_mapping(str(file), problems, AggregatesConfig)
    substitute(root, problems)
    return validate(AggregatesConfig, root, problems)
