"""The lists of a task with their positives ranked: sorted by list once for all tasks, then once for each task."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from recap.evaluation.metrics.rows import (
    Floats,
    Integers,
    Sampling,
    changes,
    float_bits,
    ranks_in_lists,
    rows_of_lists,
)

_FEWEST = 5
"""Positives, and negatives, from which the sampled rows of a thinned list stand for all of them."""
_Mask = npt.NDArray[np.bool_]
_Columns = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class RankedLists:
    """The L lists of a task with a positive, and their P positives; lists in the order of their ids."""

    buckets: Integers
    """[L]"""
    shares: Floats
    """[L], the share of the rows of the list that the sample has; 1 of all rows."""
    chances: Floats
    """[L], the chance with which the list was sampled; 1 of all rows."""
    negatives: Floats
    """[L], their weight; 0 where it vanishes beside weights 1e16 times as large."""
    positive_rows: Integers
    """[L], their number."""
    negative_rows: Integers
    """[L], their number."""
    owners: Integers
    """[P], the list of each positive, ascending."""
    weights: Floats
    """[P]; in a thinned list, over its share."""
    above: Floats
    """[P], the weight of the rows with a higher prediction."""
    tied: Floats
    """[P], the weight of the rows with the same prediction, itself included."""
    won: Floats
    """[P], the weight of the negatives below it, plus half of those with the same prediction."""

    def sum(self, values: Floats) -> Floats:
        """[P] → [L], over the positives of each list."""
        return np.bincount(self.owners, values, minlength=len(self.buckets)).astype(np.float64, copy=False)

    @property
    def whole(self) -> _Mask:
        """[L], whether all rows of the list are there."""
        mask: _Mask = self.shares == 1
        return mask

    @cached_property
    def positives(self) -> Floats:
        """[L], their weight."""
        return self.sum(self.weights)

    @cached_property
    def ranks(self) -> Floats:
        """[P], from 1."""
        ranks: Floats = 1 + self.above + np.maximum(self.tied - self.weights, 0.0) / 2
        return ranks

    @cached_property
    def first_ranks(self) -> Floats:
        """[L], the best rank of a positive."""
        starts = np.flatnonzero(changes(self.owners))
        first: Floats = np.minimum.reduceat(self.ranks, starts) if len(starts) else self.ranks
        return first

    @cached_property
    def auc_weights(self) -> Floats:
        """[L], the weight of all rows of a list with both labels; 0 for others."""
        weights: Floats = np.where(self.negatives > 0, self.positives + self.negatives, 0.0)
        return weights

    @cached_property
    def areas(self) -> Floats:
        """[L], the AUC of a list with both labels; 0 for others."""
        pairs = np.where(self.negatives > 0, self.positives * self.negatives, np.inf)
        areas: Floats = self.sum(self.weights * self.won) / pairs
        return areas


class ListRows:
    """N rows of T binary tasks, sorted by list."""

    def __init__(
        self,
        lists: Integers,
        values: _Columns,
        buckets: npt.NDArray[np.integer[Any]] | None = None,
        sampling: Sampling | None = None,
    ) -> None:
        """`lists` [N], the id of the list of each row. `values` [3, T, N]: predictions, labels and weights.

        `buckets` [N], one for all rows of a list; default: 0. `sampling`: how the rows were sampled; None: not at all.
        """
        self.tasks, self.sampling = values.shape[1], sampling
        self._values = values
        # Row draws within a list ascend, which `_chances` needs.
        self._order = np.argsort(lists, kind="stable") if sampling is None else np.lexsort((sampling.row_draws, lists))
        self._starts = np.flatnonzero(changes(lists[self._order]))
        self._sizes = np.diff(self._starts, append=len(lists))
        first = self._order[self._starts]
        self._buckets = np.zeros(len(first), np.int64) if buckets is None else buckets[first].astype(np.int64)
        self._draws = np.ones(len(first)) if sampling is None else sampling.user_draws[first]
        self._ranked: dict[int, RankedLists] = {}

    def of_task(self, task: int) -> RankedLists:
        """The lists in which the task in column `task` has a positive."""
        if task in self._ranked:
            return self._ranked[task]
        ranked = self._rank(task)
        if self.sampling is not None:  # asked for once more, for the bounds
            self._ranked[task] = ranked
        return ranked

    def _rank(self, task: int) -> RankedLists:
        predictions, labels, weights = self._values[:, task]
        counted = weights > 0
        positive = (counted & (labels > 0))[self._order]
        negative = counted[self._order] & ~positive
        # A list without positives counts nowhere, so a rare task has few rows to sort by prediction.
        mask = np.add.reduceat(positive, self._starts, dtype=np.int64) > 0 if len(self._starts) else np.zeros(0, bool)
        shares = chances = np.ones(len(self._starts))
        if self.sampling is not None:
            shares = np.minimum(self.sampling.limit / self._draws, 1.0)
            chances = self._chances(positive, negative)
            mask &= self._draws < chances
        chosen = np.flatnonzero(mask)
        sizes = self._sizes[chosen]
        owners = np.repeat(np.arange(len(chosen)), sizes)
        rows = rows_of_lists(self._starts[chosen], sizes)
        keys = _keys(owners, predictions[self._order[rows]])
        rows = rows[np.argsort(keys, kind="stable")]  # Timsort, fast because the lists are in order
        positions = self._order[rows]
        return _ranked(
            owners,
            predictions[positions],
            weights[positions].astype(np.float64) / np.repeat(shares[chosen], sizes),
            positive[rows],
            negative[rows],
            (self._buckets[chosen], shares[chosen], chances[chosen]),
        )

    def _chances(self, positive: _Mask, negative: _Mask) -> Floats:
        """[lists], the chance with which each list represents all of them.

        A list does if it is whole, or if it is thinned and has enough positives and negatives. Given the draws of its
        rows, that is if its own draw is below t / R. R is the largest of the `_FEWEST` smallest draws of its
        positives, or of its negatives, whichever is larger; 1 if it has fewer of one of them. t / R is therefore its
        chance, at most 1: lists of many rows are certain to be chosen.
        """
        assert self.sampling is not None
        draws = self.sampling.row_draws[self._order]
        owners = np.repeat(np.arange(len(self._starts)), self._sizes)
        needed = np.zeros(len(self._starts))
        for mask in (positive, negative):
            mine = np.flatnonzero(mask)
            ranks = ranks_in_lists(np.flatnonzero(changes(owners[mine])), len(mine))
            fifth = mine[ranks == _FEWEST - 1]
            last = np.ones(len(needed))
            last[owners[fifth]] = draws[fifth]
            needed = np.maximum(needed, last)
        return np.minimum(self.sampling.limit / needed, 1.0)


def _keys(owners: Integers, predictions: _Columns) -> npt.NDArray[np.uint64]:
    """[N] lists and predictions → [N], in the order of list first, then of the highest prediction."""
    bits, sign = float_bits(predictions), np.uint32(1 << 31)
    descending = np.where(bits & sign, bits, bits ^ (sign - np.uint32(1)))
    return (owners.astype(np.uint64) << np.uint64(32)) | descending


def _ranked(
    owners: Integers,
    predictions: _Columns,
    weights: Floats,
    positive: _Mask,
    negative: _Mask,
    of_lists: tuple[Integers, Floats, Floats],
) -> RankedLists:
    """The positives among N rows in the order of `_keys`; `of_lists`: bucket, share and chance of each list."""
    at = np.flatnonzero(positive)
    new_list = changes(owners)
    new_tie = new_list | changes(predictions)
    ties, lists = np.flatnonzero(new_tie), np.flatnonzero(new_list)
    stop_of_tie, stop_of_list = np.r_[ties[1:], len(owners)], np.r_[lists[1:], len(owners)]
    tie, owner = (np.cumsum(new_tie) - 1)[at], owners[at]
    start, stop = ties[tie], stop_of_tie[tie]
    before, negatives = _before(weights), _before(weights * negative)
    above = before[start] - before[lists[owner]]
    won = negatives[stop_of_list[owner]] - 0.5 * (negatives[stop] + negatives[start])
    negative_rows = np.r_[0, np.cumsum(negative)]
    return RankedLists(
        *of_lists,
        negatives=negatives[stop_of_list] - negatives[lists],
        positive_rows=np.bincount(owner, minlength=len(lists)),
        negative_rows=negative_rows[stop_of_list] - negative_rows[lists],
        owners=owner,
        weights=weights[at],
        above=above,
        tied=np.maximum(before[stop] - before[start], weights[at]),
        won=won,
    )


def _before(values: Floats) -> Floats:
    """[N] → [N + 1], the sum of the values before each position."""
    sums: Floats = np.r_[0.0, np.cumsum(values)]
    return sums
