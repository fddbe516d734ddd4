"""A configuration file → `RecapConfig`, and back: `layers` put its values together, `problems` validates them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path as FilePath
from typing import Any

from recap.config.environment import escape, hide, secrets
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
    config = validate(RecapConfig, root, problems)
    config.remember_secrets(secrets(root))
    return Resolved(config, root)


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
        comments[path] = hide(f"environment {', '.join(node.variables)} ({text})" if node.variables else text)
    return dump_config(resolved.config, comments)


def differences(old: RecapConfig, new: RecapConfig) -> dict[Path, tuple[Any, Any]]:
    """Every value in which two configurations differ: path → (old, new), `ABSENT` where one has nothing.

    Where the order of a mapping says something, a mapping of another order differs too, as the list of its keys.
    """
    return dict(_differences((), _values(old), _values(new)))


_INPUTS = ("discrete", "vectors", "histories")
_ORDERED: set[Path] = {*(("features", role) for role in _INPUTS), ("model", "tasks")}
"""Mappings whose order is that of inputs or outputs of the model."""


def _differences(path: Path, old: Any, new: Any) -> Iterator[tuple[Path, tuple[Any, Any]]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            yield from _differences((*path, key), old.get(key, ABSENT), new.get(key, ABSENT))
        if path in _ORDERED and list(old) != list(new) and old.keys() == new.keys():
            yield path, (list(old), list(new))
    elif _are_sections(old) and _are_sections(new) and len(old) == len(new):
        for index, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from _differences((*path, index), before, after)
    elif isinstance(old, dict) and old and new is ABSENT:
        for key, item in old.items():
            yield from _differences((*path, key), item, ABSENT)
    elif isinstance(new, dict) and new and old is ABSENT:
        for key, item in new.items():
            yield from _differences((*path, key), ABSENT, item)
    elif old != new:
        yield path, (old, new)


def _are_sections(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def describe_changes(changes: Mapping[Path, tuple[Any, Any]]) -> list[str]:
    """A line for each of `differences`: `path: old → new`; long lists by what went (-) and what came (+)."""
    return [f"{dotted(path)}: {_change(old, new)}" for path, (old, new) in changes.items()]


_LONG = 100


def _change(old: Any, new: Any) -> str:
    whole = f"{_say(old)} → {_say(new)}"
    if len(whole) <= _LONG or not isinstance(old, list) or not isinstance(new, list):
        return whole
    before, after = list(map(_say, old)), list(map(_say, new))
    parts: list[str] = []
    for kind, i, j, k, m in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if kind != "equal":
            parts += [*(f"-{text}" for text in before[i:j]), *(f"+{text}" for text in after[k:m])]
    return " ".join(parts)


def _say(value: Any) -> str:
    return "nothing" if value is ABSENT else render_inline(value)


def _values(config: RecapConfig) -> Any:
    """The plain values of a configuration that `load_config` reads back; no secrets."""
    values = _escaped(config.model_dump(mode="json"))
    for path, reference in config.secrets.items():
        where = values
        for step in path[:-1]:
            where = where[step]
        # One glob is said alone, and kept as a list.
        where[path[-1]] = [reference] if isinstance(where[path[-1]], list) else reference
    return values


def _escaped(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _escaped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_escaped(item) for item in value]
    return escape(value) if isinstance(value, str) else value
