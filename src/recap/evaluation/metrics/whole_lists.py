"""Lists of rows in bounded memory: all of them, or whole lists drawn by a hash of their id."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from recap.data.encoding.hashing import Unsigned, hash_ids, mix
from recap.evaluation.metrics.rows import Positions, changes, ranks_in_lists

_SALT = np.uint64(0x5851F42D4C957F2D)
"""Draws of lists are independent of other hashes of the same ids."""


class ListedRows(NamedTuple):
    """N rows with V values each."""

    draws: Unsigned  # [N], equal for the rows of a list, else different
    values: npt.NDArray[np.floating[Any]]  # [N, V]

    def at(self, positions: Positions) -> "ListedRows":
        """The rows at `positions`."""
        return ListedRows(self.draws[positions], self.values[positions])

    def first(self, count: int) -> "ListedRows":
        """The `count` rows of each list with the smallest hash of their values; lists in the order of their draws."""
        order = np.lexsort((_row_hashes(self.values), self.draws))
        starts = np.flatnonzero(changes(self.draws[order]))
        return self.at(order[ranks_in_lists(starts, len(order)) < count])


class WholeLists:
    """The rows of lists, all of them up to `max_rows`; beyond that, of the lists whose draw is below a limit.

    The limit is the largest power of 2 whose lists have at most `max_rows` rows, so which lists remain depends neither
    on the order of the rows nor on the order of merging. Every list has the same chance, whatever its rows are.
    `longest`: of a longer list only that number of rows count, the first by a hash of their values.
    """

    def __init__(self, width: int, max_rows: int, longest: int | None = None) -> None:
        """`width`: the values of a row."""
        self.max_rows, self.longest = max_rows, longest
        self._bits, self._count = 64, 0
        self._parts = [ListedRows(np.zeros(0, np.uint64), np.zeros((0, width), np.float32))]

    @property
    def share(self) -> float:
        """The share of all lists that remain, by their chance."""
        return 2.0 ** (self._bits - 64)

    def add(self, lists: npt.NDArray[np.int64], values: npt.NDArray[np.floating[Any]]) -> None:
        """Add rows: the id of the list of each [B], and their values [B, V]."""
        self._add(ListedRows(mix(hash_ids(lists) ^ _SALT), values))

    def merge(self, other: "WholeLists") -> None:
        """Add the rows of another one with the same limits."""
        self._bits = min(self._bits, other._bits)
        for part in other._parts:
            self._add(part)

    def rows(self) -> ListedRows:
        """The rows that remain, in no order; lists may still be longer than `longest`."""
        draws, values = zip(*self._parts, strict=True)
        rows = self._below(ListedRows(np.concatenate(draws), np.concatenate(values)))
        if self.longest is not None and len(rows.draws) > self.max_rows:
            rows = rows.first(self.longest)
        while len(rows.draws) > self.max_rows:
            self._bits -= 1
            rows = self._below(rows)
        self._parts, self._count = [rows], len(rows.draws)
        return rows

    def _add(self, rows: ListedRows) -> None:
        retained = self._below(rows)
        self._parts.append(retained)
        self._count += len(retained.draws)
        if self._count > 2 * self.max_rows:  # not at every batch
            self.rows()

    def _below(self, rows: ListedRows) -> ListedRows:
        """The rows of lists whose draw is below 2**bits."""
        return rows if self._bits == 64 else rows.at(np.flatnonzero(rows.draws < np.uint64(1 << self._bits)))


def _row_hashes(values: npt.NDArray[np.floating[Any]]) -> Unsigned:
    """[N, V] → [N]: a hash of each row; 0.0 and −0.0 are alike."""
    hashes = np.zeros(len(values), np.uint64)
    for column in np.ascontiguousarray(values + values.dtype.type(0)).view(np.uint32).T.astype(np.uint64):
        hashes = mix(hashes * np.uint64(0x9E3779B97F4A7C15) + column)
    return hashes
