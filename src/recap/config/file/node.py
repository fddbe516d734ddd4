"""A configuration before validation: a tree of plain values that remember where they were written."""

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
    """The origin of the key that names it; None for items of lists."""
    reference: str | None = None
    """The text with `${…}` that a scalar was made from, in the form that may be stored."""
    variables: tuple[str, ...] = ()
    """The environment variables it was made from; those that fell back to a default are not among them."""
    secret: bool = False
    """Whether one of them is a secret."""
    unresolved: bool = False
    """Whether one of them is not set, so that the value means nothing."""


def node_of(value: Any, origin: Origin) -> Node:
    """Plain values as nodes of one origin."""
    if isinstance(value, dict):
        return Node({key: node_of(item, origin) for key, item in value.items()}, origin, origin)
    return Node([node_of(item, origin) for item in value] if isinstance(value, list) else value, origin, origin)


def plain(node: Node) -> Any:
    """A copy of the values alone, in which aliases share nothing."""
    if isinstance(node.value, dict):
        return {key: plain(item) for key, item in node.value.items()}
    return [plain(item) for item in node.value] if isinstance(node.value, list) else node.value


def nodes_along(node: Node, path: KeyPath) -> Iterator[Node]:
    """The nodes from `node` down `path`, ending early where the path ends."""
    yield node
    for step in path:
        below = dict(enumerate(node.value)) if isinstance(node.value, list) else node.value
        if not isinstance(below, dict) or step not in below:
            return
        node = below[step]
        yield node


def node_at(node: Node, path: KeyPath) -> Node | None:
    """The node at `path`, or None."""
    along = list(nodes_along(node, path))
    return along[-1] if len(along) == len(path) + 1 else None


def scalars(node: Node, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Node]]:
    """Every scalar below `node` with its path."""
    if isinstance(node.value, dict):
        for key, item in node.value.items():
            yield from scalars(item, (*path, key))
    elif isinstance(node.value, list):
        for index, item in enumerate(node.value):
            yield from scalars(item, (*path, index))
    else:
        yield path, node
