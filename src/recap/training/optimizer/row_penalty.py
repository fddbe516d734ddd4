"""The penalty `embedding_l2` on those rows of tables alone that a step looks up."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from recap.config.optimizer import OptimizerConfig
from recap.data.batch import Batch
from recap.distributed import Ranks
from recap.model.inputs.inputs import Inputs
from recap.model.inputs.tables import LocalTables
from recap.model.names import key_of

LOOKUPS = "lookups"


class RowPenalty:
    """λ·W in the gradients of rows that a step looks up, or λ/n·W after n lookups.

    Row 0, of unknown values, is spared.
    """

    def __init__(self, optimizer: OptimizerConfig, inputs: Inputs, ranks: Ranks) -> None:
        self.strength, self.inputs, self.ranks = optimizer.embedding_l2, inputs, ranks
        self.by_frequency = optimizer.embedding_l2_rows == "frequency"
        self.weights: dict[str, nn.Parameter] = {}
        self.lookups: dict[str, Tensor] = {}
        """Table → the lookups of each row so far, [rows] int64, if they divide the penalty."""
        tables = inputs.embeddings
        if not self.strength or optimizer.embedding_l2_rows == "all" or not isinstance(tables, LocalTables):
            return
        for table in tables.specs:
            weight = tables.weight(table)
            assert isinstance(weight, nn.Parameter)
            if weight.requires_grad:
                self.weights[table] = weight
                if self.by_frequency:
                    self.lookups[table] = torch.zeros(len(weight), dtype=torch.int64, device=weight.device)

    @torch.no_grad()
    def add(self, batch: Batch) -> None:
        """Add the penalty of a step over `batch`, this rank's rows, to the gradients. Every rank must call it."""
        codes = self.inputs.codes(batch, self.inputs.discrete) if self.weights else {}
        for table, weight in self.weights.items():
            features = self.inputs.embeddings.specs[table].features
            flat = torch.cat([codes[feature].reshape(-1) for feature in features if feature in codes])
            (rows,) = self.ranks.all_gather([self.inputs.embeddings.rows_of(table, flat.to(weight.device))])
            rows, counts = torch.unique(rows[rows != 0], return_counts=True)
            factors = torch.full_like(rows, 1, dtype=weight.dtype)
            if self.by_frequency:
                self.lookups[table][rows] += counts
                factors = factors / self.lookups[table][rows]
            if weight.grad is not None:
                _add_rows(weight.grad, rows, weight[rows] * (self.strength * factors)[:, None])

    def restart(self, weight: nn.Parameter, rows: Tensor) -> None:
        """Rows belong to other ids now, which have no lookups yet."""
        for table, lookups in self.lookups.items():
            if self.weights[table] is weight:
                lookups[rows] = 0

    def state_dict(self) -> dict[str, Tensor]:
        """`lookups.KEY` → the lookups of the rows of a table."""
        return {f"{LOOKUPS}.{key_of(table)}": lookups for table, lookups in self.lookups.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        for table, lookups in self.lookups.items():
            if (name := f"{LOOKUPS}.{key_of(table)}") in state:  # else the run had another penalty until now
                lookups.copy_(state[name])


def _add_rows(gradient: Tensor, rows: Tensor, values: Tensor) -> None:
    """Add `values` [R, width] to the rows [R] of a gradient, sparse or dense."""
    if gradient.is_sparse:
        gradient.add_(torch.sparse_coo_tensor(rows[None], values, gradient.shape, check_invariants=False))
    else:
        gradient.index_add_(0, rows, values)
