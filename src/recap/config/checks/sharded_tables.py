"""Checks of `training.sharded_tables`: what cannot be combined with tables that no rank holds whole."""

from collections.abc import Iterator

from recap.config.base import DEFAULT, KeyPath, Problems
from recap.config.checks.common import is_position, unknown
from recap.config.discrete import ZeroCollisionSpace
from recap.config.features import FeaturesConfig
from recap.config.model import ModelConfig
from recap.config.optimizer import AdamConfig, AdamWConfig, OptimizerConfig, RowwiseAdagradConfig
from recap.config.sharded_tables import ShardedTablesConfig
from recap.config.training import TrainingConfig

_SECTION = "training.sharded_tables"
_TABLES = "inputs.embeddings"
"""The path of the tables in a model."""
_MULTIPLE = 4
"""The width of a table is a multiple of this in TorchRec."""


def sharded_table_problems(
    training: TrainingConfig, optimizer: OptimizerConfig, features: FeaturesConfig, model: ModelConfig
) -> Problems:
    """Nothing needs a whole table, or the gradient of one, in a step."""
    sharded = training.sharded_tables
    if sharded is None:
        return
    yield from _optimizer_problems(optimizer)
    if training.ema is not None:
        yield (
            ("training", "ema"),
            f"averages every row in every step, but {_SECTION} moves only the rows of a batch; remove one of them",
        )
    if optimizer.clip_gradients is not None:
        yield (
            ("optimizer", "clip_gradients"),
            f"needs the whole gradients of tables, which no rank has with {_SECTION}; remove one of them",
        )
    for index, name in enumerate(optimizer.frozen):
        if f"{_TABLES}.".startswith(f"{name}.") or name.startswith(f"{_TABLES}."):
            yield (
                ("optimizer", "frozen", index),
                f"{name!r} holds tables that {_SECTION} divides; to keep all tables as they are, set "
                "optimizer.tables.learning_rate to {kind: constant, learning_rate: 0}; freeze other modules by name",
            )
    yield from _name_problems(sharded, optimizer, features)
    yield from _width_problems(features, model)
    for name, table in model.embeddings.items():
        if table.narrow:
            text = f"does not work with {_SECTION}; remove it, or remove {_SECTION}, which smaller tables may not need"
            yield ("model", "embeddings", name, "narrow"), text


def zero_collision_problems(training: TrainingConfig, features: FeaturesConfig) -> Problems:
    """A zero-collision hash has no more parts than rows, and its rows are not averaged over ids."""
    for table, space in features.code_spaces.items():
        if not isinstance(space, ZeroCollisionSpace):
            continue
        path: KeyPath = (*features.path_of_table(table), "zero_collision")
        rows, parts = space.zero_collision.rows, space.zero_collision.parts
        if training.ema is not None and training.sharded_tables is None:
            yield (
                path,
                "lets rows pass to other ids, but training.ema would average the vectors of both; remove training.ema, "
                f"or use hash: {{buckets: {rows}}}",
            )
        if parts is not None and parts > rows:
            yield (*path, "parts"), f"each part has a row, so there are at most {rows} (rows), found {parts}"


def _optimizer_problems(optimizer: OptimizerConfig) -> Problems:
    path: KeyPath = ("optimizer", "tables")
    if optimizer.tables is None:
        yield (
            ("training", "sharded_tables"),
            "needs optimizer.tables, with an algorithm that moves the rows of a batch; add, for example, "
            "optimizer.tables: {algorithm: {kind: rowwise_adagrad}, learning_rate: "
            "{kind: constant, learning_rate: 0.01}, sparse: true}",
        )
    elif isinstance(optimizer.tables.algorithm, AdamConfig | AdamWConfig):
        yield (
            (*path, "algorithm", "kind"),
            f"{optimizer.tables.algorithm.kind} does not work with {_SECTION}; use rowwise_adagrad, adagrad or sgd, or "
            f"remove {_SECTION}",
        )
    elif not optimizer.tables.sparse:
        yield (*path, "sparse"), f"must be true with {_SECTION}, which moves only the rows of a batch; set it to true"


def _name_problems(sharded: ShardedTablesConfig, optimizer: OptimizerConfig, features: FeaturesConfig) -> Problems:
    """Every name is that of a table, which can be divided as asked."""
    rowwise = optimizer.tables is not None and isinstance(optimizer.tables.algorithm, RowwiseAdagradConfig)
    for name, sharding in sharded.tables.items():
        path: KeyPath = ("training", "sharded_tables", "tables", name)
        if name != DEFAULT and name not in features.code_spaces:
            yield path, unknown(name, "table", features.code_spaces)
        elif sharding == "column_wise" and rowwise:
            yield (
                path,
                "rowwise_adagrad keeps one sum for a row, but each part of a column_wise table would keep its own; use "
                "row_wise or table_wise, or adagrad in optimizer.tables.algorithm",
            )


def _width_problems(features: FeaturesConfig, model: ModelConfig) -> Problems:
    read = set(_width_names(features, model))
    for name in model.embeddings:
        width = model.widths[name]
        if name in read and width % _MULTIPLE:
            above = width + -width % _MULTIPLE
            below = f"{width - width % _MULTIPLE} or " if width > _MULTIPLE else ""
            yield (
                ("model", "embeddings", name),
                f"{_SECTION} needs widths that are multiples of {_MULTIPLE}, found {width}; use {below}{above}",
            )


def _width_names(features: FeaturesConfig, model: ModelConfig) -> Iterator[str]:
    """The entries of `model.embeddings` that give the width of a table."""
    for table in features.code_spaces:
        if not is_position(model, table):
            name = features.width_name(table)
            yield name if name in model.embeddings else DEFAULT
