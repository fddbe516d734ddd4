"""A tree of ours, built from what a published file says: each value with its place there."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from recap.config.base import KeyPath, dotted
from recap.config.file.environment import escape
from recap.config.file.node import Node, node_at, node_of, scalars
from recap.config.file.validate import origin_at
from recap.errors import Problem


@dataclass
class TreeBuilder:
    """Makes nodes from those of a published file, and remembers what is to be said of it."""

    raw: Node
    """The published file as it is written, references to the environment included."""
    problems: list[Problem] = field(default_factory=list)
    remarks: list[Problem] = field(default_factory=list)

    def mapping(self, path: KeyPath, entries: Mapping[str, Node | None]) -> Node:
        """A mapping of those entries that are there."""
        origin = origin_at(self.raw, path, key=True)
        return Node({key: entry for key, entry in entries.items() if entry is not None}, origin, origin)

    def made(self, value: Any, path: KeyPath) -> Node:
        """A value that stands for what is at `path`; it is no reference, whatever it looks like."""
        return _escaped(node_of(value, origin_at(self.raw, path)))

    def copied(self, path: KeyPath) -> Node | None:
        """What is at `path`, as it is written, without what is null."""
        node = node_at(self.raw, path)
        return None if node is None or node.value is None else _without_nulls(deepcopy(node))

    def copies(self, path: KeyPath, *names: str) -> dict[str, Node | None]:
        """What is at some keys of `path`, by key."""
        return {name: self.copied((*path, name)) for name in names}

    def remark(self, path: KeyPath, text: str) -> None:
        """Say what changes in meaning."""
        self.remarks.append(Problem(origin_at(self.raw, path, key=True), dotted(path), text))

    def refuse(self, path: KeyPath, text: str) -> None:
        """Say what cannot be taken over."""
        self.problems.append(Problem(origin_at(self.raw, path), dotted(path), text))

    def stated(self, path: KeyPath) -> bool:
        """Whether a file says something there."""
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
