"""What goes where: the memory that each table, and the dense part, take on the ranks."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from heapq import heapreplace
from typing import Literal, TypeAlias

from recap.config.base import DEFAULT
from recap.config.optimizer import TableAlgorithmConfig
from recap.config.recap import RecapConfig
from recap.config.sharded_tables import ShardedTablesConfig
from recap.planning.network import BYTES, NetworkCosts, TableCosts
from recap.training.optimizer.memory import state_bytes

Sharding: TypeAlias = Literal["data_parallel", "row_wise", "table_wise", "column_wise"]
"""`data_parallel`: every rank holds all of it."""
CODE_BYTES = 8
DENSE = "the rest"
"""The name of all that is not in tables."""
_MULTIPLE = 4
"""The width of a column-wise part is a multiple of this, as in training."""


@dataclass(frozen=True)
class Bytes:
    """Memory, by what it holds."""

    weights: int = 0
    gradients: int = 0
    optimizer: int = 0
    average: int = 0
    """The moving average of the weights."""
    activations: int = 0
    """What a micro-batch keeps for its backward pass; of a table, the vectors that were looked up and their gradients.
    """

    @property
    def total(self) -> int:
        """All of it."""
        return sum(getattr(self, field.name) for field in fields(self))

    def __add__(self, other: "Bytes") -> "Bytes":
        return Bytes(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))


@dataclass(frozen=True)
class Part:
    """A table, a teacher, or the dense part of the network."""

    name: str
    rows: int
    width: int
    """0 for what is not a table, as `rows`."""
    sharding: Sharding
    ranks: int
    """Ranks that hold some of it; of a column-wise table, its parts."""
    bytes: Bytes
    """On a rank that holds some of it: the fullest."""


@dataclass(frozen=True)
class Piece:
    """Columns of a table, or all, that one rank holds alone."""

    table: str
    width: int
    rank: int


@dataclass(frozen=True)
class Placement:
    """Where everything is."""

    parts: tuple[Part, ...]
    """The tables, teachers, and the dense part."""
    fullest: Bytes
    """The memory of the fullest rank."""
    sharded_bytes: int
    """Weights and optimizer state of divided tables on the fullest rank."""
    pieces: tuple[Piece, ...]


def placement_of(
    config: RecapConfig, network: NetworkCosts, ranks: int, sharded: ShardedTablesConfig | None
) -> Placement:
    """Place the network of `config` on `ranks`, with its tables divided as in `sharded`; None: not divided."""
    examples = examples_of_micro_batch(config, ranks)
    parts, everywhere, alone = list[Part](), Bytes(), list[tuple[str, int, Bytes]]()
    for table in network.tables:
        spec, sharding = table.spec, sharding_of(table, sharded)
        rows, width, holders = spec.num_embeddings, spec.width, ranks
        if sharding == "row_wise":
            rows = -(-rows // ranks)
            holders = -(-spec.num_embeddings // rows)
        elif sharding != "data_parallel":
            width = width if sharding == "table_wise" else part_width(width, ranks)
            holders = spec.width // width
        held = _table_bytes(config, table, sharding, rows, width, examples * table.lookups, ranks)
        parts.append(Part(spec.name, spec.num_embeddings, spec.width, sharding, holders, held))
        if sharding in ("table_wise", "column_wise"):
            alone += [(spec.name, width, held)] * holders
        else:
            everywhere += held
    for teacher in network.teachers:
        if teacher.network is not None:
            held = Bytes(weights=teacher.network.weight_bytes)
            parts.append(Part(f"teacher {teacher.directory}", 0, 0, "data_parallel", ranks, held))
            everywhere += held
    parts.append(Part(DENSE, 0, 0, "data_parallel", ranks, _dense_bytes(config, network, examples)))
    pieces, most = _balanced(alone, ranks)
    row_wise = sum((part.bytes for part in parts if part.sharding == "row_wise"), Bytes())
    return Placement(
        parts=tuple(parts),
        fullest=everywhere + parts[-1].bytes + most,
        sharded_bytes=sum(held.weights + held.optimizer for held in (row_wise, most)),
        pieces=pieces,
    )


def _balanced(alone: Sequence[tuple[str, int, Bytes]], ranks: int) -> tuple[tuple[Piece, ...], Bytes]:
    """Give each piece, the largest first, to the rank with the fewest bytes; and what the fullest rank holds."""
    loads = [(0, rank) for rank in range(ranks)]
    by_rank, pieces = dict[int, Bytes](), list[Piece]()
    for name, width, held in sorted(alone, key=lambda piece: -piece[2].total):
        load, rank = loads[0]
        heapreplace(loads, (load + held.total, rank))
        by_rank[rank] = by_rank.get(rank, Bytes()) + held
        pieces.append(Piece(name, width, rank))
    return tuple(pieces), max(by_rank.values(), key=lambda held: held.total, default=Bytes())


def examples_of_rank(config: RecapConfig, ranks: int) -> int:
    """Examples of the largest share of a batch."""
    return -(-config.train_data.global_batch_size // ranks)


def examples_of_micro_batch(config: RecapConfig, ranks: int) -> int:
    """Examples of a rank that pass through the network together."""
    return -(-examples_of_rank(config, ranks) // (config.training.gradient_accumulation or 1))


def sharding_of(table: TableCosts, sharded: ShardedTablesConfig | None) -> Sharding:
    """How a table is divided; `auto` counts as row-wise."""
    if sharded is None:
        return "data_parallel"
    given = sharded.tables.get(table.spec.name, sharded.tables.get(DEFAULT, "auto"))
    return "row_wise" if given == "auto" else given


def part_width(width: int, ranks: int) -> int:
    """The width of a column-wise part: the narrowest of which no rank needs two, as in training."""
    parts = [part for part in range(_MULTIPLE, width, _MULTIPLE) if width % part == 0 and part * ranks >= width]
    return min(parts, default=width)


def table_algorithm(config: RecapConfig) -> TableAlgorithmConfig:
    """The algorithm that updates the tables."""
    tables = config.optimizer.tables
    return config.optimizer.algorithm if tables is None else tables.algorithm


def has_sparse_gradients(config: RecapConfig) -> bool:
    """Whether a step reads and writes only the rows of tables that were looked up, where tables are not divided."""
    return config.optimizer.tables is not None and config.optimizer.tables.sparse


def _table_bytes(
    config: RecapConfig, table: TableCosts, sharding: Sharding, rows: int, width: int, lookups: int, ranks: int
) -> Bytes:
    """The memory of a rank that holds `rows` × `width` of a table and looks up `lookups` rows in a micro-batch."""
    weights, vectors = rows * width * BYTES, lookups * width * BYTES
    if not table.is_learned:
        return Bytes(weights=weights, activations=0 if sharding == "data_parallel" else 2 * vectors)
    optimizer = state_bytes(table_algorithm(config), rows * width, rows)
    average = weights if config.training.ema is not None else 0
    if sharding != "data_parallel":  # vectors and gradients: of its own examples, and of those that ask this rank
        asked = vectors if sharding == "row_wise" else vectors * ranks
        return Bytes(weights=weights, optimizer=optimizer, average=average, activations=2 * (vectors + asked))
    of_lookups = lookups * (width * BYTES + CODE_BYTES)
    gathered = of_lookups * (ranks + 1 if ranks > 1 else 1)
    gradients = gathered if has_sparse_gradients(config) else weights
    return Bytes(weights=weights, gradients=gradients, optimizer=optimizer, average=average)


def _dense_bytes(config: RecapConfig, network: NetworkCosts, examples: int) -> Bytes:
    learned = network.learned_bytes
    return Bytes(
        weights=network.dense_bytes,
        gradients=learned,
        optimizer=state_bytes(config.optimizer.algorithm, learned // BYTES, 0),
        average=learned if config.training.ema is not None else 0,
        activations=network.activation_bytes * examples,
    )
