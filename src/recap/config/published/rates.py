"""Learning rates of the published form, and what they are in ours."""

from recap.config.node import Node, Path, node_at
from recap.config.published.section import PublishedSection
from recap.config.published.tree import TreeBuilder


class Ramp(PublishedSection):
    """Up to a rate."""

    learning_rate: float
    num_ramp_steps: int


class Cosine(PublishedSection):
    """Up to a rate and down again."""

    learning_rate: float
    final_learning_rate: float
    num_ramp_steps: int
    final_num_steps: int


class Pieces(PublishedSection):
    """A rate for each piece."""

    learning_rate_boundaries: list[int]
    learning_rate_values: list[float]


class LearningRate(PublishedSection):
    """A rate and its schedule."""

    one_of = (("constant", "linear_ramp_to_constant", "linear_ramp_to_cosine", "piecewise_constant"),)
    constant: float | None = None
    linear_ramp_to_constant: Ramp | None = None
    linear_ramp_to_cosine: Cosine | None = None
    piecewise_constant: Pieces | None = None


def rate_of(tree: TreeBuilder, path: Path, said: LearningRate) -> Node:
    """The one schedule that is set at `path`; a constant one may be a bare number there."""
    node = node_at(tree.raw, path)
    if node is not None and node.value is not None and not isinstance(node.value, dict):
        return tree.mapping(path, {"kind": tree.made("constant", path), "learning_rate": tree.copied(path)})
    given = [kind for kind, value in said if value is not None]
    kind = given[0] if given else "constant"  # stands in for what is refused
    copied = tree.copied((*path, kind)) or tree.made(0.0, path)
    fields = {"learning_rate": copied} if kind == "constant" else dict(copied.value)
    return tree.mapping((*path, kind), {"kind": tree.made(kind, path), **fields})
