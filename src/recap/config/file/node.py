"""A configuration before it is validated: plain values, each with its origin."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from recap.config.base import KeyPath
from recap.errors import Origin


@dataclass
class Node:
    """A value, and where it was said."""

    value: Any
    """dict[str, Node], list[Node], or a scalar."""
    origin: Origin
    key: Origin | None = None
    """Where the key that names it stands; none for items of lists."""
    reference: str | None = None
    """The text with references to the environment that a scalar was made from, as it may be stored."""
    variables: tuple[str, ...] = ()
    """The environment variables that it was made from; none where defaults were taken."""
    secret: bool = False
    """Whether one of them is a secret."""
    unresolved: bool = False
    """Whether one of them is not set: the value says nothing."""


def node_of(value: Any, origin: Origin) -> Node:
    """Plain values as nodes of one origin."""
    if isinstance(value, dict):
        return Node({key: node_of(item, origin) for key, item in value.items()}, origin, origin)
    return Node([node_of(item, origin) for item in value] if isinstance(value, list) else value, origin, origin)


def plain(node: Node) -> Any:
    """The values alone; changing one place of them changes no other."""
    if isinstance(node.value, dict):
        return {key: plain(item) for key, item in node.value.items()}
    return [plain(item) for item in node.value] if isinstance(node.value, list) else node.value


def nodes_along(node: Node, path: KeyPath) -> Iterator[Node]:
    """The nodes from `node` down `path`, as far as there are any."""
    yield node
    for step in path:
        below = dict(enumerate(node.value)) if isinstance(node.value, list) else node.value
        if not isinstance(below, dict) or step not in below:
            return
        node = below[step]
        yield node


def node_at(node: Node, path: KeyPath) -> Node | None:
    """The node at `path`, if there is one."""
    found = list(nodes_along(node, path))
    return found[-1] if len(found) == len(path) + 1 else None


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


def _choice(mapping: dict[str, Node]) -> str | None:
    """What tells a choice from its others: its `kind`, or the key that only it has."""
    kind = mapping.get("kind")
    if kind is not None and isinstance(kind.value, str):
        return kind.value
    named = [key for key in ("size", "vocabulary") if key in mapping and not isinstance(mapping[key].value, dict)]
    return named[0] if len(named) == 1 else None


def lay_over(base: Node, stated: Node) -> Node:
    """`stated` over `base`: mappings merge key by key; lists, scalars and mappings of another `kind` replace."""
    if not isinstance(base.value, dict) or not isinstance(stated.value, dict):
        return stated
    chosen = [_choice(node.value) for node in (base, stated)]
    if None not in chosen and chosen[0] != chosen[1]:
        return stated
    merged = {key: lay_over(base.value[key], item) if key in base.value else item for key, item in stated.value.items()}
    return Node({**base.value, **merged}, stated.origin, stated.key)
