"""Which ids have rows of their own in a table: TorchRec's zero-collision hash, its parts divided among the ranks.

A hash of an id chooses its part of the table. The rank that keeps the part knows which ids have its rows, and counts
those that ask. Every `evict_every` steps there is a round: TorchRec's `MCHManagedCollisionModule` gives each part the
ids since the last one, and its policy decides which take rows. Parts do not depend on the ranks, so neither does the
result; and they need not be the parts in which TorchRec divides the vectors.
"""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from recap.config.discrete import ZeroCollisionConfig
from recap.distributed import Ranks, lost_ranks_raised
from recap.model.inputs.row_ids import NO_ID, RowIds
from recap.model.inputs.tables import TableSpec
from recap.training.sharded_tables.loading import quiet

if TYPE_CHECKING:
    from torch.distributed._shard.sharded_tensor.api import ShardedTensor

COUNTS = "counts"
LAST_ROUND = "last_access_iter"
_METADATA = {"lfu": (COUNTS,), "lru": (LAST_ROUND,), "distance_lfu": (COUNTS, LAST_ROUND)}
"""Policy → what TorchRec knows of each row."""


class PartIds:
    """The ids of the rows of one table, for the parts that this rank keeps."""

    def __init__(self, spec: TableSpec, ranks: Ranks, device: torch.device) -> None:
        assert spec.zero_collision is not None
        self.spec, self.config, self.ranks, self.device = spec, spec.zero_collision, ranks, device
        self.parts = self.config.number_of_parts
        own = ranks.share(self.parts)
        self.own = range(own.start, own.stop)
        self.first = self._rank_start(ranks.rank)
        rows = self._rank_start(ranks.rank + 1) - self.first
        self.row_ids = RowIds(rows, self.first).to(device)
        self.metadata = {
            name: torch.zeros(rows, dtype=torch.int64, device=device) for name in _METADATA[self.config.policy]
        }
        """What the policy knows of each row."""
        self.steps = 0
        """Steps so far."""
        self._history: list[Tensor] = []  # the ids since the last round
        self._pending: list[Tensor] = []  # those of a step that is not taken yet

    def _start(self, part: int) -> int:
        """The first row of a part; row 0 belongs to none."""
        return 1 + part * self.config.rows // self.parts

    def _rank_start(self, rank: int) -> int:
        """The first row that a rank keeps; the first one also keeps row 0."""
        return self._start(self.parts * rank // self.ranks.world_size) if rank else 0

    def rank_of(self, codes: Tensor) -> Tensor:
        """[N] codes of ids → [N] ranks that keep their parts."""
        starts = [self.parts * rank // self.ranks.world_size for rank in range(1, self.ranks.world_size)]
        return torch.bucketize(codes % self.parts, torch.tensor(starts, device=codes.device), right=True)

    def rows(self, codes: Tensor, *, record: bool) -> Tensor:
        """[N] codes of ids of own parts → [N] rows, 0 without one. `record`: count them when the step is taken."""
        if record:
            self._pending.append(codes)
        rows: Tensor = self.row_ids(codes)
        return rows

    def forget(self) -> None:
        """Do not count the ids of a step that is not taken."""
        self._pending = []

    def step(self) -> Tensor | None:
        """A step is taken. In a round: the rows [N] of own parts that passed from one id to another; else None."""
        self._history, self._pending = [*self._history, *self._pending], []
        self.steps += 1
        if self.steps % self.config.evict_every:
            return None
        history, self._history = self._joined(), []
        before = self.row_ids.ids.clone()
        for part in self.own:
            of_part = history[history % self.parts == part]
            if len(of_part):
                self._round(part, of_part)
        self.row_ids.sort()
        return self.first + ((before != NO_ID) & (before != self.row_ids.ids)).nonzero().squeeze(1)

    def _joined(self) -> Tensor:
        return torch.cat(self._history) if self._history else torch.empty(0, dtype=torch.int64, device=self.device)

    def _round(self, part: int, history: Tensor) -> None:
        """Let the ids of `history` take rows of a part, whose rows TorchRec sees in the order of their ids."""
        from torchrec.modules.mc_modules import MCHManagedCollisionModule
        from torchrec.sparse.jagged_tensor import JaggedTensor

        start, end = self._start(part), self._start(part + 1)
        own = slice(start - self.first, end - self.first)
        ids, order = self.row_ids.ids[own].sort(stable=True)
        with quiet():
            module = MCHManagedCollisionModule(
                zch_size=end - start + 1,  # the last is for ids without a row
                device=self.device,
                eviction_policy=_policy(self.config),
                eviction_interval=1,
            )
            state = module.state_dict()
            state["_current_iter_tensor"].fill_(self.steps // self.config.evict_every - 1)
            state["_mch_sorted_raw_ids"][:-1] = ids
            state["_mch_remapped_ids_mapping"][:-1] = order
            for name, values in self.metadata.items():
                state[f"_mch_{name}"][:-1] = values[own][order]
            lengths = torch.tensor([len(history)], device=self.device)
            module.train().profile({self.spec.name: JaggedTensor(values=history, lengths=lengths)})
            state = module.state_dict()
        rows = state["_mch_remapped_ids_mapping"][:-1]
        self.row_ids.ids[own] = torch.empty_like(ids).scatter_(0, rows, state["_mch_sorted_raw_ids"][:-1])
        for name, values in self.metadata.items():
            values[own] = torch.empty_like(ids).scatter_(0, rows, state[f"_mch_{name}"][:-1])

    def load_ids(self, ids: Tensor) -> None:
        """Take the ids of a whole table, [rows] int64, as far as a row is of the part of its id."""
        own = ids[self.first : self.first + len(self.row_ids.ids)].to(self.device)
        part = own % self.parts
        starts = torch.tensor([self._start(part) for part in range(self.parts + 1)], device=self.device)
        rows = torch.arange(self.first, self.first + len(own), device=self.device)
        fits = (rows >= starts[part]) & (rows < starts[part + 1])
        self.row_ids.ids.copy_(torch.where(fits, own, NO_ID))
        self.row_ids.sort()

    # The state of a run.

    def sharded(self, values: Tensor, group: Any) -> "ShardedTensor":
        """`values` [own rows], a number for each row, as the part of a tensor of all rows."""
        from torch.distributed._shard.metadata import ShardMetadata
        from torch.distributed._shard.sharded_tensor.api import ShardedTensor
        from torch.distributed._shard.sharded_tensor.metadata import ShardedTensorMetadata, TensorProperties
        from torch.distributed._shard.sharded_tensor.shard import Shard

        starts = [self._rank_start(rank) for rank in range(self.ranks.world_size + 1)]
        placement = self.device.type if self.device.index is None else str(self.device)
        shards = [
            ShardMetadata([start], [end - start], f"rank:{rank}/{placement}")
            for rank, (start, end) in enumerate(pairwise(starts))
        ]
        return ShardedTensor._init_from_local_shards_and_global_metadata(
            [Shard(values, shards[self.ranks.rank])],
            ShardedTensorMetadata(shards, torch.Size([self.spec.num_embeddings]), TensorProperties(dtype=values.dtype)),
            process_group=group,
        )

    def history(self) -> Tensor:
        """The ids of all parts since the last round, ascending; every rank must call it."""
        (history,) = self.ranks.all_gather([self._joined()])
        return history.sort().values

    def load_history(self, history: Tensor, steps: int) -> None:
        """Restore what `history` returned on any number of ranks, and the number of steps."""
        history = history.to(self.device)
        own = (history % self.parts >= self.own.start) & (history % self.parts < self.own.stop)
        self._history, self._pending, self.steps = [history[own]], [], steps


def _policy(config: ZeroCollisionConfig) -> Any:
    from torchrec.modules.mc_modules import DistanceLFU_EvictionPolicy, LFU_EvictionPolicy, LRU_EvictionPolicy

    match config.policy:
        case "lfu":
            return LFU_EvictionPolicy()
        case "lru":
            return LRU_EvictionPolicy()
        case "distance_lfu":
            return DistanceLFU_EvictionPolicy()


class ZeroCollision:
    """The ids of all tables that have a zero-collision hash. Every rank must make the same calls."""

    def __init__(self, specs: Sequence[TableSpec], ranks: Ranks, device: torch.device, seed: int) -> None:
        self.ranks, self.device, self.seed = ranks, device, seed
        of_ids = [spec for spec in specs if spec.zero_collision is not None]
        self.tables = {spec.name: PartIds(spec, ranks, device) for spec in of_ids}
        self._table_of = {feature: spec.name for spec in of_ids for feature in spec.features}

    def rows(self, codes: Mapping[str, Tensor], *, record: bool) -> dict[str, Tensor]:
        """Features → their codes, those of ids replaced by rows. `record`: count the ids when the step is taken."""
        features = [feature for feature in codes if feature in self._table_of]
        if not features:
            return dict(codes)
        flat = torch.cat([codes[feature].reshape(-1) for feature in features])
        numbers = {table: number for number, table in enumerate(self.tables)}
        tables = torch.tensor([numbers[self._table_of[feature]] for feature in features], device=self.device)
        sizes = torch.tensor([codes[feature].numel() for feature in features], device=self.device)
        known = flat.nonzero().squeeze(1)  # neither null nor padding
        rows = torch.zeros_like(flat)
        with lost_ranks_raised():
            rows[known] = self._exchange(flat[known], tables.repeat_interleave(sizes)[known], record=record)
        parts = torch.split(rows, sizes.tolist())
        return dict(codes) | {
            feature: part.view(codes[feature].shape) for feature, part in zip(features, parts, strict=True)
        }

    def _exchange(self, codes: Tensor, tables: Tensor, *, record: bool) -> Tensor:
        """[N] codes of ids and their tables → [N] rows, which the ranks that keep their parts know."""
        size, keepers = self.ranks.world_size, torch.zeros_like(codes)
        for number, part_ids in enumerate(self.tables.values()):
            of_table = tables == number
            keepers[of_table] = part_ids.rank_of(codes[of_table])
        groups = keepers * len(self.tables) + tables
        order = groups.argsort(stable=True)
        sent = groups.bincount(minlength=size * len(self.tables))  # by keeper and table
        received = _swapped(sent, [len(self.tables)] * size, [len(self.tables)] * size)
        to, by = (counts.view(size, -1).sum(dim=1).tolist() for counts in (sent, received))
        asked = torch.split(_swapped(codes[order], to, by), received.tolist())  # by asking rank and table
        known = list(self.tables.values())
        answers = [known[index % len(known)].rows(part, record=record) for index, part in enumerate(asked)]
        return torch.empty_like(codes).scatter_(0, order, _swapped(torch.cat(answers), by, to))

    def forget(self) -> None:
        """Do not count the ids of a step that is not taken."""
        for part_ids in self.tables.values():
            part_ids.forget()

    def step(self) -> dict[str, tuple[Tensor, Tensor]]:
        """A step is taken. Table → its rows [N] that passed to another id, and new vectors [N, width] for them."""
        changed: dict[str, tuple[Tensor, Tensor]] = {}
        for table, part_ids in self.tables.items():
            own = part_ids.step()
            if own is None:
                continue
            (rows,) = self.ranks.all_gather([own])
            digest = blake2b(f"{self.seed}/{part_ids.steps}/{table}".encode(), digest_size=8).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest, "little", signed=True))
            vectors = torch.empty(len(rows), part_ids.spec.width).normal_(std=part_ids.spec.std, generator=generator)
            changed[table] = rows, vectors
        return changed


def _swapped(values: Tensor, sent: Sequence[int], received: Sequence[int]) -> Tensor:
    """Consecutive values for each rank → those from each rank, [sum of `received`]."""
    if len(sent) == 1:
        return values
    result = values.new_empty(sum(received))
    dist.all_to_all_single(result, values.contiguous(), list(received), list(sent))
    return result
