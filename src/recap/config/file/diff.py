"""Compares two configurations: for `recap config diff`, resumed runs and loaded models."""

from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from recap.config.base import KeyPath, OrderMatters, dotted
from recap.config.file.keys import has_mark
from recap.config.file.load import load_stored_beside, stored_values
from recap.config.file.yaml import render_inline
from recap.config.recap import RecapConfig
from recap.errors import CheckpointError
from recap.text import shorten

ABSENT = object()
"""In `differences`, the value of a missing key."""
_MAX_LINE = 100
"""Maximum characters of a change in full; longer ones show only the list items that differ."""

_MAX_CHANGE = 2000
"""Maximum characters of any change."""


def differences(old: RecapConfig, new: RecapConfig) -> dict[KeyPath, tuple[Any, Any]]:
    """Every value that differs: path → (old, new), with `ABSENT` for a missing key.

    For a mapping whose order matters, a different order is a difference of the lists of its keys.
    """
    return dict(_differences((), stored_values(old), stored_values(new)))


def _differences(path: KeyPath, old: Any, new: Any) -> Iterator[tuple[KeyPath, tuple[Any, Any]]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            yield from _differences((*path, key), old.get(key, ABSENT), new.get(key, ABSENT))
        reordered = old.keys() == new.keys() and list(old) != list(new)
        if reordered and has_mark(RecapConfig, path, OrderMatters()):
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
    """A line per difference: `path: old → new`, or for long lists the items removed (-) and added (+)."""
    return [f"{dotted(path)}: {shorten(_change(old, new), _MAX_CHANGE)}" for path, (old, new) in changes.items()]


def check_unchanged(config: RecapConfig, file: Path, free: Sequence[KeyPath], problem: str) -> None:
    """Raise CheckpointError if `config` differs from the stored one in `file`, except at and below the paths in `free`.

    The error states the folder of the file, then `problem`, then every difference.
    """
    changes = differences(load_stored_beside(file, config), config)
    changes = {path: change for path, change in changes.items() if not any(path[: len(at)] == at for at in free)}
    if changes:
        lines = "\n".join(f"  {line}" for line in describe_changes(changes))
        raise CheckpointError(f"{file.parent}: {problem}:\n{lines}")


def _change(old: Any, new: Any) -> str:
    line = f"{_shown(old)} → {_shown(new)}"
    if len(line) <= _MAX_LINE or not isinstance(old, list) or not isinstance(new, list):
        return line
    before, after = list(map(_shown, old)), list(map(_shown, new))
    parts: list[str] = []
    for kind, i, j, k, m in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if kind != "equal":
            parts += [*(f"-{text}" for text in before[i:j]), *(f"+{text}" for text in after[k:m])]
    return " ".join(parts)


def _shown(value: Any) -> str:
    return "nothing" if value is ABSENT else render_inline(value)
