"""Published learning rates → ours."""

from recap.config.base import KeyPath
from recap.config.file.node import Node, node_at
from recap.published.convert.tree import TreeBuilder
from recap.published.form.rates import LearningRate


def convert_rate(tree: TreeBuilder, path: KeyPath, rate: LearningRate) -> Node:
    """The schedule at `path`; a bare number is a constant rate."""
    node = node_at(tree.raw, path)
    if node is not None and node.value is not None and not isinstance(node.value, dict):
        return tree.mapping(path, {"kind": tree.node("constant", path), "learning_rate": tree.copy(path)})
    kinds = [kind for kind, schedule in rate if schedule is not None]
    kind = kinds[0] if kinds else "constant"  # a placeholder: a rate without a schedule is refused
    schedule = tree.copy((*path, kind)) or tree.node(0.0, path)
    fields = {"learning_rate": schedule} if kind == "constant" else dict(schedule.value)
    return tree.mapping((*path, kind), {"kind": tree.node(kind, path), **fields})
