"""A tree in our form, built from the values of a published file; each keeps its origin there."""

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
    """Makes nodes from those of a published file, and collects remarks and refusals."""

    raw: Node
    """The published file as written, with its references to the environment."""
    problems: list[Problem] = field(default_factory=list)
    remarks: list[Problem] = field(default_factory=list)

    def mapping(self, path: KeyPath, entries: Mapping[str, Node | None]) -> Node:
        """A mapping of the entries that are not None."""
        origin = origin_at(self.raw, path, key=True)
        return Node({key: entry for key, entry in entries.items() if entry is not None}, origin, origin)

    def made(self, value: Any, path: KeyPath) -> Node:
        """A new value that stands for the one at `path`; text in it that looks like a reference is escaped."""
        return _escaped(node_of(value, origin_at(self.raw, path)))

    def copied(self, path: KeyPath) -> Node | None:
        """The node at `path` as written, without nulls."""
        node = node_at(self.raw, path)
        return None if node is None or node.value is None else _without_nulls(deepcopy(node))

    def copies(self, path: KeyPath, *names: str) -> dict[str, Node | None]:
        """The nodes at some keys of `path`, by key."""
        return {name: self.copied((*path, name)) for name in names}

    def epsilon(self, path: KeyPath, value: float) -> Node | None:
        """The epsilon at `path`, raised to the minimum that keeps a division finite."""
        if value >= MIN_EPSILON:
            return self.copied(path)
        self.remark(path, f"{value:g} becomes {MIN_EPSILON:g}, the minimum, which keeps a division finite")
        return self.made(MIN_EPSILON, path)

    def remark(self, path: KeyPath, text: str) -> None:
        """Note a change of meaning."""
        self.remarks.append(Problem(origin_at(self.raw, path, key=True), dotted(path), text))

    def refuse(self, path: KeyPath, text: str) -> None:
        """Note something that cannot be converted."""
        self.problems.append(Problem(origin_at(self.raw, path), dotted(path), text))

    def stated(self, path: KeyPath) -> bool:
        """Whether the file has a value at `path`, other than null."""
        node = node_at(self.raw, path)
        return node is not None and node.value is not None


def _escaped(node: Node) -> Node:
    for _, item in scalars(node):
        item.value = escape(item.value) if isinstance(item.value, str) else item.value
    return node


def _without_nulls(node: Node) -> Node:
    if isinstance(node.value, dict):
        node.value = {key: _without_nulls(item) for key, item in node.value.items() if item.value is not None}
    elif isinstance(node.value, list):
        node.value = [_without_nulls(item) for item in node.value]
    return node
