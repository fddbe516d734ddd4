"""What a rank does in a step: products, memory traffic, and exchange with other ranks."""

from collections import defaultdict
from dataclasses import dataclass
from math import ceil, expm1, log1p, log2

from recap.config.recap import RecapConfig
from recap.planning.memory import (
    CODE_BYTES,
    Part,
    Placement,
    examples_of_rank,
    has_sparse_gradients,
    table_algorithm,
)
from recap.planning.network import BYTES, NetworkCosts, TableCosts
from recap.training.optimizer.memory import state_bytes

PASSES = 3
"""Times the products of the forward pass in a step: forward, and backward for weights and for inputs."""
_BUCKET = 25 * 2**20
"""Bytes that DistributedDataParallel sums at a time."""
_TO_AND_FRO = 4
"""Times that a step passes over the activations: they and their gradients are written and read."""


@dataclass(frozen=True)
class TableWork:
    """The lookups of a table by one rank in a step."""

    name: str
    lookups: int
    distinct: int
    """Expected distinct rows among them if all rows are equally frequent; real ids repeat more often."""
    ids_bytes: int
    """Sent to other ranks, or received, on the busiest rank."""
    vectors_bytes: int
    """Vectors, and then their gradients, between ranks."""


@dataclass(frozen=True)
class Work:
    """One rank, one step: the busiest rank."""

    examples: int
    flops: int
    teacher_flops: int
    """Of the forward passes of teachers, in float32."""
    memory_bytes: int
    """Read or written."""
    summed_bytes: int
    """Sent to sum the gradients of what every rank holds: 2 (W − 1) / W of their bytes."""
    gathered_bytes: int
    """Received to sum the sparse gradients of tables that every rank holds: those of all others."""
    ids_bytes: int
    vectors_bytes: int
    """Of divided tables: vectors in the forward pass, and as many gradients in the backward pass."""
    operations: int
    """Calls of torch's operators."""
    rounds: int
    """Rounds of messages that wait for one another."""
    tables: tuple[TableWork, ...]

    @property
    def exchanged_bytes(self) -> int:
        """Bytes between ranks."""
        return self.summed_bytes + self.gathered_bytes + self.ids_bytes + self.vectors_bytes


def step_work(config: RecapConfig, network: NetworkCosts, placement: Placement, ranks: int) -> Work:
    """The work of the busiest rank."""
    examples, micro_batches = examples_of_rank(config, ranks), config.training.gradient_accumulation or 1
    parts = {part.name: part for part in placement.parts}
    tables = tuple(_table_work(table, parts[table.spec.name], examples, ranks) for table in network.tables)
    summed, gathered, traffic = network.learned_bytes, 0, _dense_traffic(config, network, examples, micro_batches)
    exchanges = 0
    for table, work in zip(network.tables, tables, strict=True):
        part = parts[table.spec.name]
        traffic += _table_traffic(config, table, part, work, ranks)
        if part.sharding != "data_parallel":
            exchanges = 3  # ids, vectors, gradients; of all tables together
        elif table.is_learned and has_sparse_gradients(config):
            gathered += (ranks - 1) * work.distinct * (table.spec.width * BYTES + CODE_BYTES)
        elif table.is_learned:
            summed += part.bytes.weights
    taught = [teacher.network for teacher in network.teachers if teacher.network is not None]
    traffic += sum(_scoring_traffic(teacher, examples, micro_batches) for teacher in taught)
    hops = ceil(log2(ranks))
    ids, vectors = _alone(placement, tables, ranks)
    return Work(
        examples=examples,
        flops=PASSES * network.flops * examples,
        teacher_flops=sum(teacher.flops for teacher in taught) * examples,
        memory_bytes=traffic,
        summed_bytes=2 * (ranks - 1) * summed // ranks,
        gathered_bytes=gathered,
        ids_bytes=ids + sum(work.ids_bytes for work in tables),
        vectors_bytes=vectors + sum(work.vectors_bytes for work in tables),
        operations=(PASSES * network.operations + sum(teacher.operations for teacher in taught)) * micro_batches,
        rounds=hops * (2 * ceil(summed / _BUCKET) + exchanges * micro_batches + (2 if gathered else 0)),
        tables=tables,
    )


def _table_work(table: TableCosts, part: Part, examples: int, ranks: int) -> TableWork:
    """The lookups of one rank; their exchange if the table is divided by rows."""
    lookups, rows, away = examples * table.lookups, table.spec.num_embeddings, ranks - 1
    is_row_wise = part.sharding == "row_wise"
    return TableWork(
        name=table.spec.name,
        lookups=lookups,
        distinct=distinct(rows, lookups),
        ids_bytes=lookups * CODE_BYTES * away // ranks if is_row_wise else 0,
        vectors_bytes=_directions(table) * lookups * part.width * BYTES * away // ranks if is_row_wise else 0,
    )


def _directions(table: TableCosts) -> int:
    """Vectors go to the examples; gradients go back to a table that is learned."""
    return 2 if table.is_learned else 1


def _alone(placement: Placement, tables: tuple[TableWork, ...], ranks: int) -> tuple[int, int]:
    """Ids, and vectors with their gradients, in bytes, of the busiest of the ranks that hold pieces alone."""
    lookups = {work.name: work.lookups for work in tables}
    ids, vectors = defaultdict[int, int](int), defaultdict[int, int](int)
    for piece in placement.pieces:
        asked = lookups[piece.table] * (ranks - 1)
        ids[piece.rank] += asked * CODE_BYTES
        vectors[piece.rank] += 2 * asked * piece.width * BYTES
    busiest = max(vectors, key=vectors.__getitem__, default=0)
    return ids[busiest], vectors[busiest]


def distinct(rows: int, lookups: int) -> int:
    """Expected distinct rows among lookups if all `rows`, at least 2, are equally frequent.

    That is rows · (1 − (1 − 1 / rows)^lookups).
    """
    return round(-rows * expm1(lookups * log1p(-1 / rows)))


def _dense_traffic(config: RecapConfig, network: NetworkCosts, examples: int, micro_batches: int) -> int:
    """Weights are read in each pass, activations go to and fro, and the optimizer reads and writes all its memory."""
    learned = network.learned_bytes
    state = state_bytes(config.optimizer.algorithm, learned // BYTES, 0)
    average = learned if config.training.ema is not None else 0
    passes = PASSES * network.dense_bytes * micro_batches
    return passes + _TO_AND_FRO * network.activation_bytes * examples + 3 * learned + 2 * state + 3 * average


def _scoring_traffic(network: NetworkCosts, examples: int, micro_batches: int) -> int:
    """A forward pass of a teacher reads its weights; lookups and activations are written and read."""
    lookups = sum(table.lookups * table.spec.width * BYTES for table in network.tables)
    return network.dense_bytes * micro_batches + 2 * (lookups + network.activation_bytes) * examples


def _table_traffic(config: RecapConfig, table: TableCosts, part: Part, work: TableWork, ranks: int) -> int:
    """Lookups are read and written, as their gradients; the rows that they touch are read and written."""
    width, spec = table.spec.width * BYTES, table.spec
    lookups = _TO_AND_FRO * work.lookups * width
    if not table.is_learned:
        return lookups
    row = 2 * (width + state_bytes(table_algorithm(config), spec.width, 1))
    average = 3 * part.bytes.average
    if part.sharding == "data_parallel" and not has_sparse_gradients(config):
        return lookups + spec.num_embeddings * (row + 2 * width) + average
    touched = distinct(spec.num_embeddings, work.lookups * ranks)  # by the whole batch
    if part.sharding == "row_wise":
        touched = -(-touched // ranks)
    elif part.sharding != "data_parallel":
        lookups *= ranks
        row = row // part.ranks
    return lookups + touched * row + average
