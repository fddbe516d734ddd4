"""Results as JSON has them: no NaN, no infinities, no tuples and no dataclasses."""

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any


def to_plain(value: Any) -> Any:
    """Dataclasses and mappings as objects, lists and tuples as lists, undefined numbers as null."""
    if is_dataclass(value):
        return {item.name: to_plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def from_plain(value: Any) -> Any:
    """The inverse, but for dataclasses and infinities: null as NaN, lists as tuples."""
    if isinstance(value, Mapping):
        return {key: from_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(from_plain(item) for item in value)
    return math.nan if value is None else value


def numbers(value: Any, depth: int) -> Any:
    """Mappings of this depth, of numbers or intervals, as floats.

    Raises AttributeError, TypeError or ValueError for anything else.
    """
    if depth:
        return {name: numbers(item, depth - 1) for name, item in value.items()}
    if isinstance(value, tuple):
        low, high = value
        return float(low), float(high)
    return float(value)
