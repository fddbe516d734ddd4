"""Published learning rates → ours."""

from recap.config.base import KeyPath
from recap.config.file.node import Node, node_at
from recap.published.convert.tree import TreeBuilder
from recap.published.form.rates import LearningRate


def rate_of(tree: TreeBuilder, path: KeyPath, said: LearningRate) -> Node:
    """The one schedule that is set at `path`; a constant one may be a bare number there."""
    node = node_at(tree.raw, path)
    if node is not None and node.value is not None and not isinstance(node.value, dict):
        return tree.mapping(path, {"kind": tree.made("constant", path), "learning_rate": tree.copied(path)})
    given = [kind for kind, value in said if value is not None]
    kind = given[0] if given else "constant"  # stands in for what is refused
    copied = tree.copied((*path, kind)) or tree.made(0.0, path)
    fields = {"learning_rate": copied} if kind == "constant" else dict(copied.value)
    return tree.mapping((*path, kind), {"kind": tree.made(kind, path), **fields})
