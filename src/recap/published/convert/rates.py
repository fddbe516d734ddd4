"""Published learning rates → ours."""

from recap.config.base import KeyPath
from recap.config.file.node import Node, node_at
from recap.config.file.validate import origin_at
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
    for name in ("num_ramp_steps", "final_num_steps"):
        if name in fields:
            fields[name] = tree.steps((*path, kind, name), getattr(getattr(rate, kind), name))
    if rate.piecewise_constant is not None:
        boundaries: KeyPath = (*path, kind, "learning_rate_boundaries")
        steps = [
            tree.steps((*boundaries, index), batches)
            for index, batches in enumerate(rate.piecewise_constant.learning_rate_boundaries)
        ]
        fields["learning_rate_boundaries"] = Node(steps, origin_at(tree.raw, boundaries))
    return tree.mapping((*path, kind), {"kind": tree.node(kind, path), **fields})
