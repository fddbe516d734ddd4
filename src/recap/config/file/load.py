"""A configuration file → `RecapConfig`, and back: `layers` put its values together, `problems` validates them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recap.config.base import KeyPath
from recap.config.file.diff import _values
from recap.config.file.environment import hide, secrets
from recap.config.file.layers import assemble, inherit_train_data
from recap.config.file.node import Node, node_of, nodes_along, scalars
from recap.config.file.validate import validate
from recap.config.file.yaml import render
from recap.config.recap import RecapConfig
from recap.errors import Origin, Problem

STORED = "config.yaml"
"""The resolved configuration in a run or a model directory."""


@dataclass(frozen=True)
class Resolved:
    """A configuration, and where each of its values was said."""

    config: RecapConfig
    root: Node


def load_config(
    file: str | Path, overrides: Sequence[str] = (), set_files: Sequence[str] = (), *, stored: bool = False
) -> RecapConfig:
    """Read `file` over its `base`, lay `set_files` and `overrides` (`section.key=value`) over it, and validate.

    `stored`: the file of a run or model, whose secrets stay references. Raises ConfigError that lists every problem
    found as `file:line:column: path: what`.
    """
    return resolve(file, overrides, set_files, stored=stored).config


def resolve(
    file: str | Path, overrides: Sequence[str] = (), set_files: Sequence[str] = (), *, stored: bool = False
) -> Resolved:
    """As `load_config`, with the origin of every value."""
    problems: list[Problem] = []
    root = assemble(file, overrides, set_files, problems, stored=stored)
    config = validate(RecapConfig, root, problems)
    config.remember_secrets(secrets(root))
    return Resolved(config, root)


def config_of(values: dict[str, Any]) -> RecapConfig:
    """A configuration from plain values, as a file with these values gives it. Raises ConfigError."""
    root = node_of(values, Origin("configuration"))
    inherit_train_data(root)
    return validate(RecapConfig, root)


def dump_config(config: RecapConfig, comments: dict[KeyPath, str] | None = None) -> str:
    """The resolved configuration as YAML, secrets as their references; loading it gives an equal config."""
    return render(_values(config), comments)


def show_config(resolved: Resolved) -> str:
    """`dump_config` with the origin of every value that is not a default, as a comment."""
    comments: dict[KeyPath, str] = {}
    for path, _ in scalars(node_of(_values(resolved.config), Origin(""))):
        along = list(nodes_along(resolved.root, path))
        node = along[-1]
        if len(along) <= len(path) and isinstance(node.value, dict | list):
            continue  # nothing was said here: a default
        text = f"{node.origin.source}:{node.origin.line}" if node.origin.line else str(node.origin)
        comments[path] = hide(f"environment {', '.join(node.variables)} ({text})" if node.variables else text)
    return dump_config(resolved.config, comments)
