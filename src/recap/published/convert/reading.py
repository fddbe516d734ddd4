"""Reads a file in the published form as the published code does: YAML 1.1, `$NAME`, numbers in quotes."""

import re
from copy import deepcopy

from recap.config.file.environment import substitute
from recap.config.file.layers import read_mapping
from recap.config.file.node import Node, node_at, scalars
from recap.config.file.validate import retyped, validate
from recap.errors import ConfigError, Problem
from recap.published.form.config import PublishedConfig

_DOLLAR = re.compile(r"\$(?:(?P<dollar>\$)|(?P<name>[_a-zA-Z][_a-zA-Z0-9]*)|(?P<brace>\{))(?P<open>\{?)")


def read_published(file: str, problems: list[Problem]) -> tuple[Node, Node, PublishedConfig]:
    """The file with references to the environment, the same with their values, and the validated values.

    Mistakes in references are added to `problems`. Raises ConfigError for all other mistakes.
    """
    raw = read_mapping(file, problems, PublishedConfig, yaml_1_1=True)
    _refuse_other_projects(raw)
    for _, node in scalars(raw):
        if isinstance(node.value, str):
            node.value = _DOLLAR.sub(_reference, node.value)
    root = deepcopy(raw)
    substitute(root, problems)
    for path, value in retyped(PublishedConfig, root).items():
        for tree in (raw, root):
            written = node_at(tree, path)
            if written is not None and "${" not in str(written.value):
                written.value = value
    return raw, root, validate(PublishedConfig, root, problems)


def _reference(match: re.Match[str]) -> str:
    """`$NAME` and `$$` of Python's string.Template in our form: `${NAME}`, and a dollar sign."""
    if match["dollar"]:
        return "$${" if match["open"] else "$"
    if match["name"]:
        return f"${{{match['name']}}}{match['open']}"
    return match[0]


def _refuse_other_projects(raw: Node) -> None:
    """Raises ConfigError for a file of the published code's knowledge-graph embeddings, which has other sections."""
    for path in (("model", "relations"), ("model", "embeddings"), ("train_data", "per_replica_batch_size")):
        node = node_at(raw, path)
        if node is not None and node_at(raw, ("model", "tasks")) is None:
            text = "belongs to the published TwHIN project, which embeds a graph; recap imports files of the ranker"
            raise ConfigError([Problem(node.key or node.origin, ".".join(path), text)])
