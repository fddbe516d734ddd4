"""Builds our configuration from the nodes of a published file; every value keeps its origin in that file."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from recap.config.base import MIN_EPSILON, KeyPath, dotted
from recap.config.file.environment import escape
from recap.config.file.node import Node, node_at, node_of, scalars
from recap.config.file.validate import origin_at
from recap.errors import Problem


@dataclass
class TreeBuilder:
    """Makes nodes of our configuration, and collects remarks and refusals."""

    raw: Node
    """The published file, with references to the environment not yet replaced."""
    batches_per_update: int = 1
    """Batches that the published code accumulates for one update; it counts batches as steps, we count updates."""
    problems: list[Problem] = field(default_factory=list)
    remarks: list[Problem] = field(default_factory=list)

    def mapping(self, path: KeyPath, entries: Mapping[str, Node | None]) -> Node:
        """A mapping of `entries`, without those that are None; its origin is that of the key at `path`."""
        origin = origin_at(self.raw, path, key=True)
        return Node({key: entry for key, entry in entries.items() if entry is not None}, origin, origin)

    def node(self, value: Any, path: KeyPath) -> Node:
        """A new value with the origin of `path`; what looks like a reference to the environment is escaped."""
        return _escaped(node_of(value, origin_at(self.raw, path)))

    def copy(self, path: KeyPath) -> Node | None:
        """A copy of the node at `path`, without nulls; None if it is missing or null."""
        node = node_at(self.raw, path)
        return None if node is None or node.value is None else _without_nulls(deepcopy(node))

    def copy_fields(self, path: KeyPath, *names: str) -> dict[str, Node | None]:
        """Copies of the fields `names` of the section at `path`, by name."""
        return {name: self.copy((*path, name)) for name in names}

    def steps(self, path: KeyPath, batches: int) -> Node | None:
        """The number of updates for the number of `batches` at `path`; None if it has a default that stays."""
        if self.batches_per_update == 1:
            return self.copy(path)
        return self.node(-(-batches // self.batches_per_update), path)

    def epsilon(self, path: KeyPath, value: float) -> Node | None:
        """The epsilon at `path`, raised to our minimum if it is below."""
        if value >= MIN_EPSILON:
            return self.copy(path)
        self.remark(path, f"{value:g} becomes {MIN_EPSILON:g}, the minimum, which keeps a division finite")
        return self.node(MIN_EPSILON, path)

    def remark(self, path: KeyPath, text: str) -> None:
        """Report that the value at `path` changes its meaning."""
        self.remarks.append(Problem(origin_at(self.raw, path, key=True), dotted(path), text))

    def refuse(self, path: KeyPath, text: str) -> None:
        """Report that the value at `path` cannot be converted."""
        self.problems.append(Problem(origin_at(self.raw, path), dotted(path), text))

    def is_set(self, path: KeyPath) -> bool:
        """Whether the file has a value at `path`, other than null."""
        node = node_at(self.raw, path)
        return node is not None and node.value is not None


def _escaped(node: Node) -> Node:
    for _, item in scalars(node):
        if isinstance(item.value, str):
            item.value = escape(item.value)
    return node


def _without_nulls(node: Node) -> Node:
    if isinstance(node.value, dict):
        node.value = {key: _without_nulls(item) for key, item in node.value.items() if item.value is not None}
    elif isinstance(node.value, list):
        node.value = [_without_nulls(item) for item in node.value]
    return node
