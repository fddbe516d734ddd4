"""The ids of the rows of sharded tables, whose parts are divided among the ranks.

A hash of an id chooses its part of the table. The rank that keeps the part knows which ids have its rows, and counts
those that ask. Parts need not be those in which TorchRec divides the vectors.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from recap.distributed import Ranks, lost_ranks_raised
from recap.model.inputs.tables import TableSpec
from recap.training.ids.parts import PartIds


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
            changed[table] = rows, part_ids.new_vectors(len(rows), self.seed)
        return changed


def _swapped(values: Tensor, sent: Sequence[int], received: Sequence[int]) -> Tensor:
    """Consecutive values for each rank → those from each rank, [sum of `received`]."""
    if len(sent) == 1:
        return values
    result = values.new_empty(sum(received))
    dist.all_to_all_single(result, values.contiguous(), list(received), list(sent))
    return result
