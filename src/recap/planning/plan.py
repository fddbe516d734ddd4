"""The plan of a run: whether it fits, what would make it fit, and how long a step takes."""

from collections.abc import Iterator
from dataclasses import dataclass

from recap.config.recap import RecapConfig
from recap.config.sharded_tables import ShardedTablesConfig
from recap.data.encoding.assets import Assets
from recap.errors import InputError
from recap.planning.machines import GIB, LINK_SHARE, MATRIX_SHARE, MEMORY_SHARE, Machine
from recap.planning.memory import Placement, placement_of
from recap.planning.network import NetworkCosts, network_costs
from recap.planning.work import PASSES, Work, step_work

_MAX_RANKS = 1 << 16
"""Ranks up to which the smallest number that fits is sought."""
ROW_WISE = ShardedTablesConfig(tables={"default": "row_wise"})


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step, by what takes them."""

    compute: float
    """Matrix products."""
    memory: float
    """Everything else: reading and writing memory."""
    exchange: float
    """Ids, vectors and gradients of tables."""
    latency: float
    """Rounds of messages."""
    summing: float
    """The gradients of what every rank holds, of which the backward pass hides `hidden`."""
    hidden: float
    host: float
    """PyTorch's own time, beyond what the device hides."""

    @property
    def total(self) -> float:
        """The whole step."""
        return self.compute + self.memory + self.exchange + self.latency + self.summing - self.hidden + self.host


@dataclass(frozen=True)
class Fit:
    """Whether the fullest rank has the memory."""

    needed: int
    """Bytes, with what is reserved."""
    available: int
    table_limit: int | None
    """`training.sharded_tables.memory_gib`, in bytes."""
    fits: bool
    largest: str
    """The part that takes most of a rank."""
    smallest_world: int | None
    """The fewest ranks that fit with this configuration; None if no number does, or more than the batch has rows."""
    smallest_world_row_wise: int | None
    """The same if all tables were divided row-wise."""


@dataclass(frozen=True)
class Plan:
    """What a run needs on its ranks."""

    ranks: int
    ranks_per_node: int
    machine: Machine
    precision: str
    network: NetworkCosts
    placement: Placement
    fit: Fit
    work: Work
    time: StepTime
    examples_per_second: float
    assumptions: tuple[str, ...]


def make_plan(config: RecapConfig, assets: Assets, ranks: int, ranks_per_node: int, machine: Machine) -> Plan:
    """Plan `config` for `ranks` on `machine`. Raises InputError for ranks that cannot be, and ConfigError."""
    if ranks > ranks_per_node and ranks % ranks_per_node:
        raise InputError(
            f"--world-size: {ranks} ranks are no whole number of nodes of {ranks_per_node}; use a multiple of "
            f"{ranks_per_node}, or another --gpus-per-node"
        )
    precision = _precision(config, machine)
    network = network_costs(config, assets, precision)
    most = _most_ranks(config, network)
    if ranks > most:
        needs = ", since BatchNorm needs 2 examples in a micro-batch" if network.min_examples > 1 else ""
        raise InputError(
            f"--world-size: {ranks} ranks are too many for train_data.global_batch_size, "
            f"{config.train_data.global_batch_size}{needs}; use at most {most}, a larger batch, or fewer micro-batches"
        )
    sharded = config.training.sharded_tables
    placement = placement_of(config, network, ranks, sharded)
    work = step_work(config, network, placement, ranks)
    time = step_time(work, machine, precision, ranks, ranks_per_node)
    return Plan(
        ranks=ranks,
        ranks_per_node=ranks_per_node,
        machine=machine,
        precision=precision,
        network=network,
        placement=placement,
        fit=_fit(config, network, placement, machine),
        work=work,
        time=time,
        examples_per_second=config.train_data.global_batch_size / time.total,
        assumptions=tuple(_assumptions(config, network, machine)),
    )


def _most_ranks(config: RecapConfig, network: NetworkCosts) -> int:
    """The most ranks that the examples of a step suffice for."""
    micro_batches = config.training.gradient_accumulation or 1
    return max(config.train_data.global_batch_size // (micro_batches * network.min_examples), 1)


def _precision(config: RecapConfig, machine: Machine) -> str:
    """The precision of training on `machine`. Raises InputError if nothing is known of it there."""
    precision = config.training.precision
    if precision == "auto":
        return next(iter(machine.flops)) if machine.is_shared else "bf16"
    if machine.is_shared and precision == "tf32":
        precision = "float32"  # TF32 is for GPUs
    if precision not in machine.flops:
        known = ", ".join(machine.flops)
        raise InputError(
            f"training.precision: {precision} was not measured on this CPU, only {known}; plan with "
            f"training.precision={known}, or measure a machine with 'python benchmarks/plan.py --precision {precision}'"
        )
    return precision


def _fit(config: RecapConfig, network: NetworkCosts, placement: Placement, machine: Machine) -> Fit:
    assert machine.memory_gib is not None
    sharded = config.training.sharded_tables
    table_limit = None if sharded is None or sharded.memory_gib is None else round(sharded.memory_gib * GIB)
    reserved, available = round(machine.reserved_gib * GIB), round(machine.memory_gib * GIB)

    def fits(placed: Placement) -> bool:
        within = table_limit is None or placed.sharded_bytes <= table_limit
        return within and placed.fullest.total + reserved <= available

    def smallest(divided: ShardedTablesConfig | None) -> int | None:
        """The fewest ranks that fit: doubling finds a number that does, and bisection the first."""
        most, high = min(_most_ranks(config, network), _MAX_RANKS), 1
        while not fits(placement_of(config, network, high, divided)):
            if high == most:
                return None
            high = min(2 * high, most)
        low = high // 2
        while high - low > 1:
            middle = (low + high) // 2
            if fits(placement_of(config, network, middle, divided)):
                high = middle
            else:
                low = middle
        return high

    is_row_wise = all(part.sharding == "row_wise" for part in placement.parts if part.rows)
    smallest_world = smallest(sharded)
    return Fit(
        needed=placement.fullest.total + reserved,
        available=available,
        table_limit=table_limit,
        fits=fits(placement),
        largest=max(placement.parts, key=lambda part: part.bytes.total).name,
        smallest_world=smallest_world,
        smallest_world_row_wise=smallest_world if is_row_wise else smallest(_row_wise(sharded)),
    )


def _row_wise(sharded: ShardedTablesConfig | None) -> ShardedTablesConfig:
    return ROW_WISE if sharded is None else sharded.model_copy(update={"tables": ROW_WISE.tables})


def step_time(work: Work, machine: Machine, precision: str, ranks: int, ranks_per_node: int) -> StepTime:
    """The time of a step: on a CPU, of all ranks on its cores; on GPUs, of the busiest rank."""
    devices = ranks if machine.is_shared else 1
    exact = "float32" if precision != "tf32" and "float32" in machine.flops else precision
    compute = devices * (work.flops / machine.flops[precision] + work.teacher_flops / machine.flops[exact])
    memory = devices * work.memory_bytes / machine.bytes_per_second
    away = work.ids_bytes + work.vectors_bytes + work.gathered_bytes
    if machine.is_shared:
        exchange, summing = devices * away / machine.link, devices * work.summed_bytes / machine.link
        hidden, crowd = 0.0, max(1.0, ranks / (machine.cores or 1))
        host = work.operations * machine.seconds_per_operation * crowd
        latency = work.rounds * machine.seconds_per_round * crowd
    else:
        exchange = _exchange_seconds(away, machine, ranks, ranks_per_node)
        summing = _summing_seconds(work.summed_bytes, machine, ranks, ranks_per_node)
        hidden = min(summing, (compute + memory) * (PASSES - 1) / PASSES)
        host = max(0.0, work.operations * machine.seconds_per_operation - compute - memory)
        latency = work.rounds * machine.seconds_per_round
    return StepTime(compute, memory, exchange, latency, summing, hidden, host)


def _exchange_seconds(size: int, machine: Machine, ranks: int, ranks_per_node: int) -> float:
    """An exchange of all with all: what stays in the node and what leaves it travel at the same time."""
    if ranks == 1:
        return 0.0
    inside = min(ranks, ranks_per_node) - 1
    leaving = (ranks - 1 - inside) / (ranks - 1)
    return max(size * (1 - leaving) / machine.link, size * leaving / machine.network)


def _summing_seconds(size: int, machine: Machine, ranks: int, ranks_per_node: int) -> float:
    """A sum over all ranks, within nodes and then between them over all their links; `size`: 2 (W − 1) / W of it."""
    if ranks == 1:
        return 0.0
    whole = size * ranks / (2 * (ranks - 1))
    inside = min(ranks, ranks_per_node)
    nodes = ranks // inside
    within = 2 * (inside - 1) / inside * whole / machine.link
    return within + 2 * (nodes - 1) / nodes * whole / inside / machine.network


def _assumptions(config: RecapConfig, network: NetworkCosts, machine: Machine) -> Iterator[str]:
    """What the numbers rest on."""
    yield f"{machine.name}: {machine.source}"
    if machine.is_shared:
        yield f"all ranks share the {machine.cores} cores of one machine, cores / ranks threads each; nothing overlaps"
    else:
        operation, message = (1e6 * each for each in (machine.seconds_per_operation, machine.seconds_per_round))
        yield (
            f"a step reaches {MATRIX_SHARE:.0%} of the peak of matrix products, {MEMORY_SHARE:.0%} of that of memory "
            f"and {LINK_SHARE:.0%} of that of links; PyTorch takes {operation:g} µs for an operator, and a round of "
            f"messages {message:g} µs: none of these is measured"
        )
        yield "the sum of gradients overlaps with the backward pass, exchange with nothing"
        yield "between nodes, all GPUs of a node use their links at the same time; 15% of the memory stays free"
    yield (
        "a step has 3 times the products of a forward pass; activations and their gradients are written and read once; "
        "the optimizer passes once over weights, gradients and its state"
    )
    if any(teacher.network is not None for teacher in network.teachers):
        yield (
            "every rank holds the teachers, which score a micro-batch in float32 before the network reads it; the "
            "memory that this takes is free again by then"
        )
    for teacher in network.teachers:
        if teacher.network is None:
            yield f"a teacher is not counted, neither its memory nor its time: {teacher.problem}"
    if network.tables:
        yield "ids are uniform over the rows of a table: real ones repeat, which touches fewer rows but sends as many"
    if config.features.histories:
        yield "histories are as long as max_length: shorter ones are padded to it"
    if config.training.sharded_tables is not None:
        yield "row-wise parts are rows / ranks; auto counts as row-wise, though TorchRec may choose otherwise"
    if config.training.compile:
        yield "training.compile is not counted: it saves memory traffic and PyTorch's own time"
    yield "rows arrive in time: reading and decoding are not counted, nor logging, evaluation and checkpoints"
