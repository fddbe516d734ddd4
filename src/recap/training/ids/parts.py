"""Which ids have rows in the parts of one table that this process keeps.

A hash of an id chooses its part of the table. Every `evict_every` steps there is a round, in which the ids since the
last one may take rows of their part. Policies are those of TorchRec's managed collision modules. Parts do not depend on
the ranks, so neither does the result.
"""

from collections.abc import Mapping
from hashlib import blake2b
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from recap.distributed import Ranks
from recap.model.inputs.row_ids import NO_ID, RowIds
from recap.model.inputs.tables import TableSpec
from recap.training.ids.sketch import Sketch

if TYPE_CHECKING:
    from torch.distributed._shard.sharded_tensor.api import ShardedTensor

COUNTS = "counts"
LAST_ROUND = "last_access_iter"
_METADATA = {"lfu": (COUNTS,), "lru": (LAST_ROUND,), "distance_lfu": (COUNTS, LAST_ROUND)}
"""Policy → what it knows of each row, in TorchRec's words."""


class PartIds:
    """The ids of the rows of one table, for the parts that this rank keeps."""

    def __init__(self, spec: TableSpec, ranks: Ranks, device: torch.device, row_ids: RowIds | None = None) -> None:
        """`row_ids`: those of a whole table, if a model holds them. Default: made here."""
        assert spec.zero_collision is not None
        self.spec, self.config, self.ranks, self.device = spec, spec.zero_collision, ranks, device
        self.parts = self.config.number_of_parts
        own = ranks.share(self.parts)
        self.own = range(own.start, own.stop)
        self.first = self._rank_start(ranks.rank)
        rows = self._rank_start(ranks.rank + 1) - self.first
        self.row_ids = RowIds(rows, self.first).to(device) if row_ids is None else row_ids
        known = {*_METADATA[self.config.policy], *((LAST_ROUND,) if self.config.evict_after else ())}
        self.metadata = {name: torch.zeros(rows, dtype=torch.int64, device=device) for name in sorted(known)}
        """What is known of each row: the occurrences of its id, and its last round."""
        after = self.config.admit_after
        self.sketch = Sketch(self.config.rows, self.parts, device) if after > 1 else None
        """The occurrences of ids without rows."""
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
            if len(of_part) or self.config.evict_after is not None:
                self._round(part, of_part)
        self.row_ids.sort()
        return self.first + ((before != NO_ID) & (before != self.row_ids.ids)).nonzero().squeeze(1)

    def _joined(self) -> Tensor:
        return torch.cat(self._history) if self._history else torch.empty(0, dtype=torch.int64, device=self.device)

    def _round(self, part: int, history: Tensor) -> None:
        """Let the ids of `history` take rows of a part. Ties are decided as TorchRec does, by the order of ids."""
        start, end = self._start(part) - self.first, self._start(part + 1) - self.first
        ids, metadata = self.row_ids.ids[start:end], {name: of[start:end] for name, of in self.metadata.items()}
        seen, counts = torch.unique(history, return_counts=True)
        order = ids.argsort(stable=True)
        index = torch.searchsorted(ids[order], seen).clamp(max=len(ids) - 1)
        known = ids[order[index]] == seen
        rows = order[index[known]]
        if COUNTS in metadata:
            metadata[COUNTS][rows] += counts[known]
        if LAST_ROUND in metadata:
            metadata[LAST_ROUND][rows] = self._number
        self._free_stale(ids, metadata)
        new, counts = self._admitted(part, seen[~known], counts[~known])
        by_count = counts.argsort(descending=True, stable=True)
        new, counts = new[by_count], counts[by_count]
        facts = {COUNTS: counts, LAST_ROUND: torch.full_like(counts, self._number)}
        scores = [self._scores(of) for of in ({name: of[order] for name, of in metadata.items()}, facts)]
        ranked = torch.cat(scores).argsort(descending=True, stable=True)
        stay, leave = ranked[: len(ids)], ranked[len(ids) :]
        rows, takers = order[leave[leave < len(ids)]], stay[stay >= len(ids)] - len(ids)
        ids[rows] = new[takers]
        for name, of in metadata.items():
            of[rows] = facts[name][takers]

    @property
    def _number(self) -> int:
        """The number of the current round, from 1."""
        return self.steps // self.config.evict_every

    def _free_stale(self, ids: Tensor, metadata: Mapping[str, Tensor]) -> None:
        """Take the rows of the ids of a part that did not occur for `evict_after` steps."""
        if self.config.evict_after is None:
            return
        rounds = -(-self.config.evict_after // self.config.evict_every)
        stale = metadata[LAST_ROUND] <= self._number - rounds
        ids[stale] = NO_ID
        for of in metadata.values():
            of[stale] = 0

    def _admitted(self, part: int, codes: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Of the codes [N] without a row that occurred, those that may take one, and their occurrences so far."""
        if self.sketch is None:
            return codes, counts
        counts = self.sketch.add(part, codes, counts)
        admitted = counts >= self.config.admit_after
        return codes[admitted], counts[admitted]

    def _scores(self, metadata: Mapping[str, Tensor]) -> Tensor:
        """[N] what the policy holds of rows; those of the lowest lose their ids."""
        match self.config.policy:
            case "lfu":
                return metadata[COUNTS]
            case "lru":
                return metadata[LAST_ROUND]
            case "distance_lfu":
                return metadata[COUNTS] / (self._number - metadata[LAST_ROUND] + 1).float()

    def new_vectors(self, rows: int, seed: int) -> Tensor:
        """[rows, width] vectors for rows that passed to other ids in this step, the same on every rank."""
        digest = blake2b(f"{seed}/{self.steps}/{self.spec.name}".encode(), digest_size=8).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "little", signed=True))
        return torch.empty(rows, self.spec.width).normal_(std=self.spec.std, generator=generator)

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

    def counted(self) -> dict[str, Tensor]:
        """`history`, the ids of all parts since the last round, ascending; `steps`; and the sketch, if there is one.

        Every rank must call it.
        """
        (history,) = self.ranks.all_gather([self._joined()])
        state = {"history": history.sort().values, "steps": torch.tensor(self.steps)}
        if self.sketch is not None:  # each rank has counts of its own parts alone
            state["counters"], state["occurrences"] = (
                self.ranks.all_reduce([of])[0] for of in (self.sketch.counters, self.sketch.occurrences)
            )
        return state

    def load_counted(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `counted` returned on any number of ranks."""
        history = state["history"].to(self.device)
        own = (history % self.parts >= self.own.start) & (history % self.parts < self.own.stop)
        self._history, self._pending, self.steps = [history[own]], [], int(state["steps"])
        if self.sketch is not None:
            parts = slice(self.own.start, self.own.stop)
            self.sketch.counters[:, parts] = state["counters"][:, parts].to(self.device)
            self.sketch.occurrences[parts] = state["occurrences"][parts].to(self.device)
