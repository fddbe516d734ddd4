"""The order of rows: a pure function of (seed, epoch, position), so that one number is enough to resume.

An epoch reads every chunk once. Chunks are permuted, then grouped into windows of at least `window_rows` rows (the last
may have fewer), and the rows of each window are permuted. To find a row, only its window has to be read.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Window:
    """Chunks whose rows are shuffled together."""

    epoch: int
    number: int
    chunks: tuple[int, ...]
    first_row: int  # in the epoch
    rows: int


class RowOrder:
    """The order in which the rows of a data set are read."""

    def __init__(self, chunk_rows: Sequence[int], window_rows: int, seed: int) -> None:
        """`chunk_rows`: rows of each chunk. `window_rows`: 0 keeps the order of the files, one chunk per window."""
        self.chunk_rows = list(chunk_rows)
        self.window_rows = window_rows
        self.seed = seed
        self.rows = sum(chunk_rows)

    def windows(self, epoch: int) -> list[Window]:
        """The windows of an epoch, in order; every chunk is in exactly one."""
        count = len(self.chunk_rows)
        order = self._random(epoch, 0).permutation(count) if self.window_rows else np.arange(count)
        windows: list[Window] = []
        chunks: list[int] = []
        first_row = rows = 0
        for position, chunk in enumerate(order.tolist()):
            chunks.append(chunk)
            rows += self.chunk_rows[chunk]
            if rows >= self.window_rows or position == count - 1:
                windows.append(Window(epoch, len(windows), tuple(chunks), first_row, rows))
                first_row, rows, chunks = first_row + rows, 0, []
        return windows

    def permutation(self, window: Window) -> npt.NDArray[np.int64]:
        """The order of the rows of a window: [rows] int64 indices into its concatenated chunks."""
        if not self.window_rows:
            return np.arange(window.rows)
        return self._random(window.epoch, window.number + 1).permutation(window.rows)

    def _random(self, epoch: int, purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, epoch, purpose])
