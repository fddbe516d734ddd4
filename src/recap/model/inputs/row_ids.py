"""The ids of the rows of a table with a zero-collision hash."""

from typing import Any

import torch
from torch import Tensor, nn

NO_ID = 2**63 - 1
"""In place of the id of a row that has none; no code of an id."""


class RowIds(nn.Module):
    """Codes of ids → the rows that belong to them."""

    ids: Tensor
    """[rows] int64: the code of the id of each row, `NO_ID` where it has none."""
    sorted_ids: Tensor
    """The same in ascending order, in which they are searched."""
    sorted_rows: Tensor
    """The row of each of `sorted_ids`."""

    def __init__(self, rows: int, first_row: int = 0) -> None:
        """No row has an id. `first_row`: the number of the first row."""
        super().__init__()
        self.first_row = first_row
        self.register_buffer("ids", torch.full((rows,), NO_ID))
        self.register_buffer("sorted_ids", torch.full((rows,), NO_ID), persistent=False)
        self.register_buffer("sorted_rows", torch.arange(first_row, first_row + rows), persistent=False)

    def forward(self, codes: Tensor) -> Tensor:
        """[…] int64 → […] int64: the row of each code; 0, that of unknown values, for codes without one."""
        if not len(self.sorted_ids):
            return torch.zeros_like(codes)
        codes = codes.contiguous()
        index = torch.searchsorted(self.sorted_ids, codes).clamp(max=len(self.sorted_ids) - 1)
        return torch.where(self.sorted_ids[index] == codes, self.sorted_rows[index], 0)

    def sort(self) -> None:
        """Search what `ids` holds now."""
        ids, order = self.ids.sort(stable=True)
        self.sorted_ids.copy_(ids)
        self.sorted_rows.copy_(order + self.first_row)

    def problem(self) -> str | None:
        """Why `ids` are not those of different values, None if they are."""
        known = self.sorted_ids[self.sorted_ids != NO_ID]
        if bool((known < 1).any()):
            return f"{int(known[0])} is not the code of an id"
        if bool((known[1:] == known[:-1]).any()):
            return f"{int(known[1:][known[1:] == known[:-1]][0])} has two rows"
        return "the row of unknown values has an id" if self.first_row == 0 and int(self.ids[0]) != NO_ID else None

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.sort()
