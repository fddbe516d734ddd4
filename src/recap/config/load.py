"""A configuration file → `RecapConfig`, and back: `layers` put its values together, `problems` validates them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from recap.config.environment import stored
from recap.config.layers import assemble, inherit_train_data
from recap.config.node import Node, Path, dotted, node_of, nodes_along, scalars
from recap.config.problems import validate
from recap.config.recap import RecapConfig
from recap.config.yaml_file import render, render_inline
from recap.errors import Origin, Problem

ABSENT = object()
"""Stands in `differences` where a configuration says nothing."""


@dataclass(frozen=True)
class Resolved:
    """A configuration, and where each of its values was said."""

    config: RecapConfig
    root: Node


def load_config(
    file: str | FilePath, overrides: Sequence[str] = (), set_files: Sequence[str] = (), *, stored: bool = False
) -> RecapConfig:
    """Read `file` over its `base`, lay `set_files` and `overrides` (`section.key=value`) over it, and validate.

    `stored`: the file of a run or model, whose secrets stay references. Raises ConfigError that lists every problem
    found as `file:line:column: path: what`.
    """
    return resolve(file, overrides, set_files, stored=stored).config


def resolve(
    file: str | FilePath, overrides: Sequence[str] = (), set_files: Sequence[str] = (), *, stored: bool = False
) -> Resolved:
    """As `load_config`, with the origin of every value."""
    problems: list[Problem] = []
    root = assemble(file, overrides, set_files, problems, stored=stored)
    return Resolved(validate(RecapConfig, root, problems), root)


def config_of(values: dict[str, Any]) -> RecapConfig:
    """A configuration from plain values, as a file with these values gives it. Raises ConfigError."""
    root = node_of(values, Origin("configuration"))
    inherit_train_data(root)
    return validate(RecapConfig, root)


def dump_config(config: RecapConfig, comments: dict[Path, str] | None = None) -> str:
    """The resolved configuration as YAML, secrets as their references; loading it gives an equal config."""
    return render(_values(config), comments)


def show_config(resolved: Resolved) -> str:
    """`dump_config` with the origin of every value that is not a default, as a comment."""
    comments: dict[Path, str] = {}
    for path, _ in scalars(node_of(_values(resolved.config), Origin(""))):
        along = list(nodes_along(resolved.root, path))
        node = along[-1]
        if len(along) <= len(path) and isinstance(node.value, dict | list):
            continue  # nothing was said here: a default
        text = f"{node.origin.source}:{node.origin.line}" if node.origin.line else str(node.origin)
        comments[path] = f"environment {', '.join(node.variables)} ({text})" if node.variables else text
    return dump_config(resolved.config, comments)


def differences(old: RecapConfig, new: RecapConfig) -> dict[Path, tuple[Any, Any]]:
    """Every value in which two configurations differ: path → (old, new), `ABSENT` where one has nothing."""
    before, after = _leaves(_values(old)), _leaves(_values(new))
    return {
        path: (before.get(path, ABSENT), after.get(path, ABSENT))
        for path in dict.fromkeys([*before, *after])
        if before.get(path, ABSENT) != after.get(path, ABSENT)
    }


def describe_changes(changes: Mapping[Path, tuple[Any, Any]]) -> list[str]:
    """A line for each of `differences`: `path: old → new`; lists of scalars by what went (-) and what came (+)."""
    return [f"{dotted(path)}: {_change(old, new)}" for path, (old, new) in changes.items()]


def _change(old: Any, new: Any) -> str:
    if isinstance(old, list) and isinstance(new, list):
        gone, come = [x for x in old if x not in new], [x for x in new if x not in old]
        if gone or come:
            parts = [*(f"-{_say(x)}" for x in gone), *(f"+{_say(x)}" for x in come)]
            return " ".join(parts)
    return f"{_say(old)} → {_say(new)}"


def _say(value: Any) -> str:
    return "nothing" if value is ABSENT else render_inline(value)


def _values(config: RecapConfig) -> Any:
    """The plain values of a configuration that `load_config` reads back; no secrets."""
    return _stored(config.model_dump(mode="json"))


def _stored(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _stored(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_stored(item) for item in value]
    return stored(value) if isinstance(value, str) else value


def _leaves(value: Any, path: Path = ()) -> dict[Path, Any]:
    """Scalars and lists of scalars, by path."""
    if isinstance(value, dict) and value:
        return {p: leaf for key, item in value.items() for p, leaf in _leaves(item, (*path, key)).items()}
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return {p: leaf for index, item in enumerate(value) for p, leaf in _leaves(item, (*path, index)).items()}
    return {path: value}
