"""A configuration before validation: a tree of plain values with their origins."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from recap.config.base import KeyPath
from recap.errors import Origin


@dataclass
class Node:
    """A value with its origin."""

    value: Any
    """dict[str, Node], list[Node], or a scalar."""
    origin: Origin
    key: Origin | None = None
    """The origin of its key; None for items of lists."""
    reference: str | None = None
    """The text with `${…}` that a scalar comes from, as it may be stored."""
    variables: tuple[str, ...] = ()
    """The environment variables in it, except those replaced by a default."""
    secret: bool = False
    """Whether it contains a secret."""
    unresolved: bool = False
    """Whether it contains an unset variable, so that its value is meaningless."""


def node_of(value: Any, origin: Origin) -> Node:
    """Plain values as nodes, all with the same origin."""
    if isinstance(value, dict):
        return Node({key: node_of(item, origin) for key, item in value.items()}, origin, origin)
    return Node([node_of(item, origin) for item in value] if isinstance(value, list) else value, origin, origin)


def plain(node: Node) -> Any:
    """A copy of the values without origins, in which aliases are independent."""
    if isinstance(node.value, dict):
        return {key: plain(item) for key, item in node.value.items()}
    return [plain(item) for item in node.value] if isinstance(node.value, list) else node.value


def nodes_along(node: Node, path: KeyPath) -> Iterator[Node]:
    """The nodes from `node` along `path`, as far as they exist."""
    yield node
    for step in path:
        below = node.value
        is_item = isinstance(below, list) and isinstance(step, int) and 0 <= step < len(below)
        if not is_item and not (isinstance(below, dict) and step in below):
            return
        node = below[step]
        yield node


def node_at(node: Node, path: KeyPath) -> Node | None:
    """The node at `path`; None if there is none."""
    along = list(nodes_along(node, path))
    return along[-1] if len(along) == len(path) + 1 else None


def scalars(node: Node, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Node]]:
    """The path and node of every scalar below `node`."""
    if isinstance(node.value, dict):
        for key, item in node.value.items():
            yield from scalars(item, (*path, key))
    elif isinstance(node.value, list):
        for index, item in enumerate(node.value):
            yield from scalars(item, (*path, index))
    else:
        yield path, node
