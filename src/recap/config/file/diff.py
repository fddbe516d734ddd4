"""How two configurations differ, in words."""

from collections.abc import Iterator, Mapping
from difflib import SequenceMatcher
from typing import Any

from recap.config.base import KeyPath, dotted
from recap.config.file.environment import escape
from recap.config.file.yaml import render_inline
from recap.config.recap import RecapConfig

ABSENT = object()
"""Stands in `differences` where a configuration says nothing."""


def differences(old: RecapConfig, new: RecapConfig) -> dict[KeyPath, tuple[Any, Any]]:
    """Every value in which two configurations differ: path → (old, new), `ABSENT` where one has nothing.

    Where the order of a mapping says something, a mapping of another order differs too, as the list of its keys.
    """
    return dict(_differences((), _values(old), _values(new)))


_INPUTS = ("discrete", "vectors", "histories")


_ORDERED: set[KeyPath] = {*(("features", role) for role in _INPUTS), ("model", "tasks")}
"""Mappings whose order is that of inputs or outputs of the model."""


def _differences(path: KeyPath, old: Any, new: Any) -> Iterator[tuple[KeyPath, tuple[Any, Any]]]:
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


def describe_changes(changes: Mapping[KeyPath, tuple[Any, Any]]) -> list[str]:
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
