"""Configuration file ↔ `RecapConfig`: the functions that every job calls.

`layers` merges the values of files and overrides, `validate` checks them, `yaml` writes them.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Self

from recap.config.base import KeyPath
from recap.config.checks.packages import missing_packages
from recap.config.data import DataConfig
from recap.config.file.environment import KnownSecrets, escape, hide, secrets
from recap.config.file.keys import is_table
from recap.config.file.layers import assemble, inherit_train_data, merge_layers, set_value
from recap.config.file.node import Node, node_of, nodes_along, scalars
from recap.config.file.validate import in_order, located, validate
from recap.config.file.yaml import render
from recap.config.recap import RecapConfig
from recap.errors import MAX_PROBLEMS, ConfigError, Origin, Problem
from recap.text import as_texts

STORED = "config.yaml"
"""The file of the resolved configuration in a run or model directory."""


@dataclass(frozen=True)
class Resolved:
    """A configuration, and the tree of values and origins it was built from."""

    config: RecapConfig
    root: Node

    @property
    def warnings(self) -> list[Problem]:
        """The warnings of the configuration, with their origins; at most `MAX_PROBLEMS`."""
        return in_order(located(self.root, islice(self.config.warnings(), MAX_PROBLEMS)))

    @property
    def missing_packages(self) -> list[Problem]:
        """A warning for each package that the configuration needs and that is not installed."""
        return in_order(located(self.root, missing_packages(self.config.training, self.config.tuning)))


@dataclass(frozen=True)
class Template:
    """A configuration file with its overrides, in which values of keys are still to be set, again and again."""

    root: Node
    """The values before validation sets inherit: they inherit what is set, as they inherit overrides."""

    @classmethod
    def read(cls, file: str | Path, overrides: Sequence[str] = (), set_files: Sequence[str] = ()) -> Self:
        """Raises ConfigError if a file or an override cannot be read; `with_values` validates."""
        problems: list[Problem] = []
        root = merge_layers(file, overrides, set_files, problems)
        if problems:
            raise ConfigError(problems)
        return cls(root)

    def with_values(self, values: Mapping[str, Node]) -> RecapConfig:
        """The configuration with these values, as overrides would set them. Raises ConfigError.

        `values`: key, such as `training.seed` → its value, whose origin and that of its key are those of messages.
        """
        root, problems = deepcopy(self.root), list[Problem]()
        for name, value in values.items():
            set_value(root, name, deepcopy(value), value.key or value.origin, problems)
        inherit_train_data(root)
        config = validate(RecapConfig, root, problems)
        config.remember_secrets(secrets(root))
        return config


def load_config(
    file: str | Path, overrides: Sequence[str] = (), set_files: Sequence[str] = (), *, stored: bool = False
) -> RecapConfig:
    """Read `file` with its `base`, apply `set_files` and then `overrides` (`section.key=value`), and validate.

    `stored`: the file belongs to a run or model, which may come from elsewhere. It is complete: it names no `base`, its
    values are text, and secrets stay references. Raises ConfigError, which lists every problem as `file:line:column:
    path: message`.
    """
    return resolve(file, overrides, set_files, known={} if stored else None).config


def load_stored_beside(file: Path, config: RecapConfig) -> RecapConfig:
    """The stored configuration in `file`, with the secrets that it has in common with `config`. Raises ConfigError."""
    values, known = config.model_dump(mode="json"), {}
    for path, reference in config.secrets.items():
        parent, key = _shortened(values, path)
        known[path] = reference, parent[key]
    return resolve(file, known=known).config


def resolve(
    file: str | Path,
    overrides: Sequence[str] = (),
    set_files: Sequence[str] = (),
    *,
    known: KnownSecrets | None = None,
) -> Resolved:
    """Like `load_config`, with the origin of every value; with `known`, `file` is a stored configuration."""
    problems: list[Problem] = []
    overrides, set_files = as_texts(overrides, "overrides"), as_texts(set_files, "set_files")
    root = assemble(file, overrides, set_files, problems, known)
    config = validate(RecapConfig, root, problems)
    config.remember_secrets(secrets(root))
    return Resolved(config, root)


def config_of(values: dict[str, Any]) -> RecapConfig:
    """A configuration from plain values, as read from a file. Raises ConfigError."""
    root = node_of(values, Origin("configuration"))
    inherit_train_data(root)
    return validate(RecapConfig, root)


def dump_config(config: RecapConfig, comments: dict[KeyPath, str] | None = None) -> str:
    """The resolved configuration as YAML, with secrets as references; `load_config` reads an equal one."""
    return render(stored_values(config), comments)


def show_config(resolved: Resolved) -> str:
    """`dump_config` with the origin of each value that is not a default as a comment."""
    comments: dict[KeyPath, str] = {}
    for path, _ in scalars(node_of(stored_values(resolved.config), Origin(""))):
        along = list(nodes_along(resolved.root, path))
        node = along[-1]
        if len(along) <= len(path) and isinstance(node.value, dict | list):
            continue  # a default
        text = f"{node.origin.source}:{node.origin.line}" if node.origin.line else str(node.origin)
        comments[path] = hide(f"environment {', '.join(node.variables)} ({text})" if node.variables else text)
    return dump_config(resolved.config, comments)


def _state_nulls(values: dict[str, Any], inherited: dict[str, Any], path: KeyPath) -> None:
    """Add the nulls of a validation set to its `values` that would otherwise read back as values of `train_data`."""
    if values.get("kind") != inherited.get("kind"):  # a choice of another kind inherits nothing
        return
    for key, item in inherited.items():
        if key not in values and not is_table(RecapConfig, path):
            values[key] = None
        elif isinstance(item, dict) and isinstance(values.get(key), dict):
            _state_nulls(values[key], item, (*path, key))


def stored_values(config: RecapConfig) -> Any:
    """The plain values of a configuration, as `load_config` reads them; secrets are references."""
    values = _escaped(config.model_dump(mode="json"))
    inherited = {key: item for key, item in values["train_data"].items() if key in DataConfig.model_fields}
    for name, data in values["validation_data"].items():
        _state_nulls(data, inherited, ("validation_data", name))
    for path, reference in config.secrets.items():
        parent, key = _shortened(values, path)
        # A field of one or many accepts a scalar and stores a list.
        parent[key] = [reference] if isinstance(parent[key], list) else reference
    return values


def unread_secrets(config: RecapConfig) -> list[KeyPath]:
    """The paths of secrets of a stored configuration, whose values are their references."""
    values = config.model_dump(mode="json")
    at = {path: _shortened(values, path) for path in config.secrets}
    return [path for path, (parent, key) in at.items() if parent[key] in (config.secrets[path], [config.secrets[path]])]


def _shortened(values: Any, path: KeyPath) -> tuple[Any, str | int]:
    """The mapping or list that holds the value at `path`, and its key; `{name: x}` may be stored as `x`."""
    for step in path[:-1]:
        if not isinstance(values[step], dict | list):
            return values, step
        values = values[step]
    return values, path[-1]


def _escaped(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _escaped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_escaped(item) for item in value]
    return escape(value) if isinstance(value, str) else value
