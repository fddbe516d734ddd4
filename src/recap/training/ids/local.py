"""The ids of the rows of tables that every rank holds whole."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from recap.data.batch import Batch
from recap.distributed import ONE_RANK, Ranks
from recap.model.inputs.inputs import Inputs
from recap.model.inputs.row_ids import RowIds
from recap.model.inputs.tables import LocalTables
from recap.model.names import key_of
from recap.training.ids.parts import PartIds


class LocalIds:
    """Which ids have rows in the tables that have a zero-collision hash. Every rank keeps all of them."""

    def __init__(self, inputs: Inputs, ranks: Ranks, seed: int) -> None:
        """`seed`: of the vectors of rows that pass to other ids. Frozen tables keep their ids."""
        self.inputs, self.ranks, self.seed = inputs, ranks, seed
        self.tables: dict[str, PartIds] = {}
        self._weights: dict[str, nn.Parameter] = {}
        tables = inputs.embeddings
        if not isinstance(tables, LocalTables) or tables.row_ids is None:
            return
        for table, spec in tables.specs.items():
            weight = tables.weight(table)
            if spec.zero_collision is not None and weight.requires_grad:
                row_ids = tables.row_ids.named(table)
                assert isinstance(row_ids, RowIds)
                assert isinstance(weight, nn.Parameter)
                self.tables[table] = PartIds(spec, ONE_RANK, weight.device, row_ids)
                self._weights[table] = weight

    def step(self, batch: Batch) -> dict[nn.Parameter, tuple[Tensor, Tensor]]:
        """A step over `batch`, this rank's rows, is taken. Every rank must call it.

        Weight of a table → its rows [N] that passed to another id, and new vectors [N, width] for them.
        """
        changed: dict[nn.Parameter, tuple[Tensor, Tensor]] = {}
        codes = self.inputs.codes(batch, self.inputs.discrete) if self.tables else {}
        for table, ids in self.tables.items():
            of_table = [codes[feature].reshape(-1) for feature in ids.spec.features if feature in codes]
            (seen,) = self.ranks.all_gather([torch.cat(of_table).to(ids.device)])
            ids.rows(seen[seen != 0], record=True)  # neither null nor padding
            rows = ids.step()
            if rows is not None:
                changed[self._weights[table]] = rows, ids.new_vectors(len(rows), self.seed).to(ids.device)
        return changed

    def state_dict(self) -> dict[str, Tensor]:
        """`row_ids.KEY.ids/…` → what is known of the ids, in the names of sharded tables."""
        return {
            f"{ids_name(table)}/{key}": value
            for table, ids in self.tables.items()
            for key, value in {**ids.metadata, **ids.counted()}.items()
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        for table, ids in self.tables.items():
            prefix = f"{ids_name(table)}/"
            values = {name.removeprefix(prefix): state[name] for name in state if name.startswith(prefix)}
            for name, known in ids.metadata.items():
                known.copy_(values[name])
            ids.load_counted(values)


def ids_name(table: str) -> str:
    """The name of the ids of a table among the weights of `Tables`."""
    return f"row_ids.{key_of(table)}.ids"
