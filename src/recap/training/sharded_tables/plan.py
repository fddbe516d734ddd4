"""The plan of sharded tables: which rank holds which part of each table, as TorchRec's planner finds it."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from recap.config.base import DEFAULT
from recap.config.optimizer import RowwiseAdagradConfig, TableAlgorithmConfig
from recap.config.recap import RecapConfig
from recap.config.sharded_tables import ShardedTablesConfig
from recap.distributed import Ranks
from recap.errors import ConfigError
from recap.model.inputs.tables import TableSpec
from recap.runtime import Runtime, free_memory
from recap.text import plural, size_text
from recap.training.optimizer.memory import state_bytes
from recap.training.sharded_tables.loading import quiet

if TYPE_CHECKING:
    from torchrec.distributed.types import ShardingPlan

MAX_SAID = 8
"""Tables of which a run says the plan."""
MAX_RANKS_SAID = 8
"""Ranks of which a run says the sizes one by one."""
_MULTIPLE = 4
"""The width of a part is a multiple of this."""


@dataclass(frozen=True)
class TablePlan:
    """How one table is divided."""

    spec: TableSpec
    sharding: str
    """`row_wise`, `table_wise` or `column_wise`."""
    bytes_by_rank: tuple[int, ...]
    """The weights and the state of the optimizer."""

    def describe(self) -> str:
        """The plan as one line."""
        size = f"{self.spec.num_embeddings:,} × {self.spec.width}"
        return f"sharded table {self.spec.name}: {size}, {self.sharding}, {_by_rank(self.bytes_by_rank)}"


def describe_plan(tables: Sequence[TablePlan]) -> Iterator[str]:
    """Lines about the largest tables, and one about all if there are several."""
    yield from (table.describe() for table in sorted(tables, key=lambda table: -sum(table.bytes_by_rank))[:MAX_SAID])
    if len(tables) > 1:
        kinds = Counter(table.sharding for table in tables)
        counts = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())
        totals = tuple(map(sum, zip(*(table.bytes_by_rank for table in tables), strict=True)))
        largest = f"; above are the {MAX_SAID} largest" if len(tables) > MAX_SAID else ""
        yield f"all {len(tables):,} sharded tables: {counts}, {_by_rank(totals)}{largest}"


def _by_rank(sizes: Sequence[int]) -> str:
    """The bytes of each rank, or the range where there are many."""
    unit, scale = ("KiB", 2**10) if max(sizes) < 2**20 else ("MiB", 2**20)
    if len(sizes) > MAX_RANKS_SAID:
        return f"{unit} on each of {len(sizes):,} ranks: {min(sizes) / scale:,.1f} to {max(sizes) / scale:,.1f}"
    return f"{unit} by rank: {', '.join(f'{size / scale:,.1f}' for size in sizes)}"


@dataclass(frozen=True)
class Planner:
    """Finds a plan with TorchRec; every rank must find the same, so all arguments must agree between the ranks."""

    config: ShardedTablesConfig
    algorithm: TableAlgorithmConfig
    ranks: Ranks
    device_type: str
    memory_bytes: int
    """What a rank may use for tables and the state of their optimizer."""
    batch_size: int
    """Rows of a rank in a step."""
    values: Mapping[str, Sequence[int]]
    """Table → the codes per row of each of its features, at most."""

    def __call__(
        self, module: nn.Module, sharder: Any, specs: Mapping[str, TableSpec]
    ) -> "tuple[ShardingPlan, list[TablePlan]]":
        """The plan of all collections in `module`, and its tables. `specs`: TorchRec's name of a table → its spec.

        Raises ConfigError, which names the largest table, if nothing fits.
        """
        from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
        from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
        from torchrec.distributed.planner.types import PlannerError

        capacity = {"hbm_cap" if self.device_type == "cuda" else "ddr_cap": self.memory_bytes}
        with quiet():
            planner = EmbeddingShardingPlanner(
                topology=Topology(
                    world_size=self.ranks.world_size,
                    local_world_size=self.ranks.local_world_size,
                    compute_device=self.device_type,
                    **capacity,
                ),
                batch_size=self.batch_size,
                storage_reservation=FixedPercentageStorageReservation(0.0),
                constraints={
                    name: ParameterConstraints(
                        sharding_types=self._sharding_types(spec),
                        compute_kernels=["fused"],
                        min_partition=self._part_width(spec.width),
                        pooling_factors=[float(count) for count in self.values[spec.name]],
                    )
                    for name, spec in specs.items()
                },
                debug=False,
            )
            try:
                plan = planner.plan(module, [sharder])
            except PlannerError:
                raise self._does_not_fit(list(specs.values())) from None
        tables = [self._table(specs[name], part) for parts in plan.plan.values() for name, part in parts.items()]
        return plan, tables

    def _sharding_types(self, spec: TableSpec) -> list[str]:
        given = self.config.tables
        kind = given.get(spec.name, given.get(DEFAULT, "auto"))
        if kind != "auto":
            return [kind]
        # Row-wise Adagrad would keep a sum for the columns of each part, not one for the row.
        columns = [] if isinstance(self.algorithm, RowwiseAdagradConfig) else ["column_wise"]
        return ["row_wise", "table_wise", *columns]

    def _part_width(self, width: int) -> int:
        """The width of a column-wise part: the narrowest that no rank needs two of."""
        parts = range(_MULTIPLE, width + 1, _MULTIPLE)
        return min(part for part in parts if width % part == 0 and part * self.ranks.world_size >= width)

    def _table(self, spec: TableSpec, part: Any) -> TablePlan:
        sizes = [0] * self.ranks.world_size
        for shard in part.sharding_spec.shards:
            rows, columns = shard.shard_sizes
            sizes[shard.placement.rank()] += 4 * rows * columns + state_bytes(self.algorithm, rows * columns, rows)
        return TablePlan(spec, part.sharding_type, tuple(sizes))

    def _does_not_fit(self, specs: Sequence[TableSpec]) -> ConfigError:
        numbers = {spec: spec.num_embeddings * spec.width for spec in specs}
        sizes = {
            spec: 4 * count + state_bytes(self.algorithm, count, spec.num_embeddings) for spec, count in numbers.items()
        }
        largest = max(sizes, key=sizes.__getitem__)
        sharding = self._sharding_types(largest)[0]
        by_rows = "" if sharding == "row_wise" else ", divide the table by rows"
        return ConfigError(
            f"training.sharded_tables: no plan fits: the tables, the state of their optimizer and the vectors of a "
            f"batch must fit {plural(self.ranks.world_size, 'rank')} of {size_text(self.memory_bytes)}, and the tables "
            f"with their state take {size_text(sum(sizes.values()))}. Most of it is {largest.name!r}: "
            f"{largest.num_embeddings:,} rows of width {largest.width}, {size_text(sizes[largest])}, divided "
            f"{sharding}. Use more ranks, raise memory_gib if the machine has more{by_rows}, or make it smaller; "
            "'recap plan CONFIG --world-size N' shows what would fit"
        )


def build_planner(config: RecapConfig, runtime: Runtime, by_feature: Mapping[str, TableSpec]) -> Planner:
    """The planner of a run. `by_feature`: the features that read tables. Every rank must call it."""
    sharded, tables, ranks = config.training.sharded_tables, config.optimizer.tables, runtime.ranks
    assert sharded is not None
    assert tables is not None
    memory = _free_bytes(runtime) if sharded.memory_gib is None else int(sharded.memory_gib * 2**30)
    values: dict[str, list[int]] = {}
    for feature, spec in by_feature.items():
        values.setdefault(spec.name, []).append(_values(config, feature) * config.features.codes_per_value(spec.name))
    return Planner(
        config=sharded,
        algorithm=tables.algorithm,
        ranks=ranks,
        device_type=runtime.device.type,
        memory_bytes=ranks.broadcast_object(memory),
        batch_size=max(config.train_data.global_batch_size // ranks.world_size, 1),
        values=values,
    )


def _values(config: RecapConfig, feature: str) -> int:
    """The values of a feature per row, at most."""
    if feature in config.features.discrete:
        return config.features.discrete[feature].length
    return config.features.histories[feature.partition("/")[0]].max_length


def _free_bytes(runtime: Runtime) -> int:
    if runtime.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(runtime.device)
        return free
    return free_memory() // runtime.ranks.local_world_size
