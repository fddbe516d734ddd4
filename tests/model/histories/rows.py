"""Events and candidates for the tests of the encoders."""

import torch
from torch import Tensor

WIDTH, LENGTH = 4, 6
"""Of an event, and of a history."""


def make_rows(seed: int, rows: int = 5, length: int = LENGTH) -> tuple[Tensor, Tensor, Tensor]:
    """Events, lengths (one 0, one maximal) and candidates."""
    random = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, length + 1, (rows,), generator=random)
    lengths[0], lengths[1] = 0, length
    return (
        torch.randn(rows, length, WIDTH, generator=random),
        lengths,
        torch.randn(rows, WIDTH, generator=random),
    )


def ages_of(events: Tensor) -> Tensor:
    """An age for each event, in seconds; [B, L, E] → [B, L]."""
    return 1e4 * events[..., 0].abs()
