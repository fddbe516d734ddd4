"""Tables whose rare values have narrower rows, which a projection lifts to the width of the others.

Mixed dimension embeddings (Ginart et al., arXiv:1909.11810, section 3) with blocks by frequency, as in adaptive input
representations (Baevski and Auli, arXiv:1809.10853, section 3). Every block is a table of its own.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from recap.model.inputs.tables import TableSpec
from recap.model.layers import linear


class Lift(nn.Module):
    """The vector of a value: its row, if it is frequent; P x for a row x of a later block, P [width, width of x]."""

    def __init__(self, blocks: Sequence[TableSpec]) -> None:
        """`blocks`: the table of the frequent values, then those of rarer ones."""
        super().__init__()
        self.blocks = list(blocks)
        first, *others = blocks
        self.projections = nn.ModuleList(linear(block.width, first.width, bias=False) for block in others)

    def divided(self, feature: int, codes: Tensor) -> dict[str, Tensor]:
        """`codes` [B, N, 1] of the `feature`-th feature of the table → the rows of each block, 0 for other values."""
        rows = {}
        for block in self.blocks:
            inside = (codes > block.before) & (codes < block.before + block.num_embeddings)
            rows[block.features[feature]] = torch.where(inside, codes - block.before, 0)
        return rows

    def forward(self, rows: Sequence[Tensor], vectors: Sequence[Tensor]) -> Tensor:
        """What `divided` returned, [B, N, 1] a block, and their rows, [B, N, width of the block] → [B, N, width].

        An unknown value is in no block and has row 0 of the first.
        """
        lifted = vectors[0]
        for inside, narrow, projection in zip(rows[1:], vectors[1:], self.projections, strict=True):
            lifted = torch.where(inside > 0, projection(narrow).to(lifted.dtype), lifted)
        return lifted


def blocks_by_table(specs: Sequence[TableSpec]) -> Mapping[str, Sequence[TableSpec]]:
    """Table → its blocks, for tables that have several."""
    blocks: dict[str, list[TableSpec]] = {}
    for spec in specs:
        blocks.setdefault(spec.block_of or spec.name, []).append(spec)
    return {table: parts for table, parts in blocks.items() if len(parts) > 1}
