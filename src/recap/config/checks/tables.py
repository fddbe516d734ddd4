"""What is said of how embedding tables move, and does not go together."""

from typing import TYPE_CHECKING

from recap.config.base import DEFAULT, Problems
from recap.config.checks.common import is_position
from recap.config.optimizer import GradNormConfig, PcGradConfig

if TYPE_CHECKING:
    from recap.config.recap import RecapConfig


def table_problems(config: "RecapConfig") -> Problems:
    """An algorithm for tables that are not there, and sparse steps where something reaches whole tables."""
    optimizer, path = config.optimizer, ("optimizer", "tables")
    if optimizer.tables is None:
        return
    if not _has_tables(config):
        yield path, "there are no embedding tables to move; leave it out, or name columns under features.discrete"
    if not optimizer.tables.sparse:
        return
    if optimizer.embedding_l2:
        yield (
            ("optimizer", "embedding_l2"),
            "moves every row of a table in every step, and sparse steps only those of a batch; set it to 0, or "
            "optimizer.tables.sparse to false",
        )
    if config.training.compile:
        yield (
            ("training", "compile"),
            "torch.compile makes no kernels for sparse gradients; leave it out, or set optimizer.tables.sparse to "
            "false",
        )
    if isinstance(optimizer.balancing, PcGradConfig | GradNormConfig):
        yield (
            ("optimizer", "balancing"),
            f"{optimizer.balancing.kind} compares gradients of whole tables; use 'none' or 'uncertainty', or set "
            "optimizer.tables.sparse to false",
        )


def _has_tables(config: "RecapConfig") -> bool:
    """Whether any discrete feature has an embedding, or there is a history, which always has."""
    widths, features = config.model.widths, config.features
    owners = [name for name in features.discrete if name in features.code_spaces and not is_position(config, name)]
    return bool(features.histories) or any(widths.get(name, widths.get(DEFAULT, 1)) for name in owners)
