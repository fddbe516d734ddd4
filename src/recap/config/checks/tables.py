"""Checks of `optimizer.tables` against everything else that changes embedding tables."""

from recap.config.base import DEFAULT, Problems
from recap.config.checks.common import is_position
from recap.config.features import FeaturesConfig
from recap.config.model import ModelConfig
from recap.config.optimizer import GradNormConfig, OptimizerConfig, PcGradConfig
from recap.config.training import TrainingConfig


def table_problems(
    optimizer: OptimizerConfig, training: TrainingConfig, features: FeaturesConfig, model: ModelConfig
) -> Problems:
    """There are tables, and with sparse steps nothing else needs their dense gradients."""
    if optimizer.tables is None:
        return
    if not _has_tables(features, model):
        text = "there are no embedding tables to update; remove it, or add columns under features.discrete"
        yield ("optimizer", "tables"), text
    if not optimizer.tables.sparse:
        return
    whole = "set optimizer.tables.sparse to false"
    if training.sharded_tables is not None:  # which needs sparse steps
        whole = "remove training.sharded_tables and set optimizer.tables.sparse to false"
    if optimizer.embedding_l2 and training.sharded_tables is not None:
        yield (
            ("optimizer", "embedding_l2"),
            f"does not work with training.sharded_tables; set it to 0, or {whole}",
        )
    elif optimizer.embedding_l2 and optimizer.embedding_l2_rows == "all":
        yield (
            ("optimizer", "embedding_l2"),
            "changes every row in every step, but sparse steps update only the rows of a batch; set it to 0, set "
            f"optimizer.embedding_l2_rows to batch or frequency, or {whole}",
        )
    if training.compile:
        yield (
            ("training", "compile"),
            f"torch.compile does not support sparse gradients; set it to false, or {whole}",
        )
    if isinstance(optimizer.balancing, PcGradConfig | GradNormConfig):
        yield (
            ("optimizer", "balancing"),
            f"{optimizer.balancing.kind} needs dense gradients of tables; use 'none' or 'uncertainty', or {whole}",
        )


def _has_tables(features: FeaturesConfig, model: ModelConfig) -> bool:
    """Whether a discrete feature has an embedding, or there is a history, which always has one."""
    owners = [name for name in features.discrete if name in features.code_spaces and not is_position(model, name)]
    return bool(features.histories) or any(model.widths.get(name, model.widths.get(DEFAULT, 1)) for name in owners)
