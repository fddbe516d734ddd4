"""The rows of metrics that need all rows together, in bounded memory: all of them, or a sample."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recap.data.encoding.hashing import hash_ids, mix

MAX_ROWS = 1_000_000
"""The maximum number of rows that metrics use; a row takes 16 bytes, plus 12 for each task."""
Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Positions = npt.NDArray[np.intp]


class Rows(NamedTuple):
    """N rows of one task."""

    users: Integers
    predictions: Floats
    labels: Floats
    weights: Floats

    def at(self, positions: Positions) -> "Rows":
        """The rows at `positions`."""
        return Rows(self.users[positions], self.predictions[positions], self.labels[positions], self.weights[positions])


class Sampling(NamedTuple):
    """How N rows of `Rows` were sampled: a row is in the sample if user_draws · row_draws < limit."""

    user_draws: Floats
    """[N], uniform over (0, 1], equal for the rows of a user; 1 without users."""
    row_draws: Floats
    """[N], uniform over (0, 1]."""
    limit: float
    """At most 1."""


def changes(values: npt.NDArray[np.generic]) -> npt.NDArray[np.bool_]:
    """[N]: whether each value differs from the previous one; True for the first."""
    mask: npt.NDArray[np.bool_] = np.r_[True, values[1:] != values[:-1]][: len(values)]
    return mask


def ranks_in_lists(starts: Positions, rows: int) -> Positions:
    """[N]: the place of each row in its list, from 0; `starts` [L] are the first rows of lists, side by side."""
    ranks: Positions = np.arange(rows) - np.repeat(starts, np.diff(starts, append=rows))
    return ranks


def rows_of_lists(starts: Positions, sizes: Positions) -> Positions:
    """The first row and the size of each list [L] → the rows of all of them, list by list."""
    rows: Positions = np.arange(sizes.sum()) + np.repeat(starts - (np.cumsum(sizes) - sizes), sizes)
    return rows


def float_bits(values: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.uint32]:
    """The bits of values as float32, the same for equal ones: −0 becomes 0."""
    return (np.ascontiguousarray(values, np.float32) + np.float32(0)).view(np.uint32)


class RowSample:
    """Rows of T tasks: all of them up to `max_rows`, beyond that a sample in which no user with many rows is missing.

    A user has a draw u in (0, 1], the hash of its id, and a row a draw r in (0, 1], the hash of its number; the rows
    with the smallest u·r remain, all below a limit t. So a user is there with the share min(1, t / u) of its rows:
    whole if u < t, otherwise thinned, but at least to the share t. Rows without users have u = 1: a uniform sample.
    Where the lists of metrics are not those of users, lists take the place of users.
    """

    def __init__(self, tasks: int, max_rows: int = MAX_ROWS, seed: int = 0) -> None:
        """Samples that are merged need different seeds."""
        self.tasks, self.max_rows = tasks, max_rows
        self.seen = 0
        """The number of rows so far."""
        self.has_users = True
        """Whether all rows so far have a user."""
        self._seed, self._count = seed, 0
        self._limit = np.inf
        self._parts: list[_Part] = []

    @property
    def is_complete(self) -> bool:
        """Whether no row was dropped; a function of the number of rows alone."""
        return self.seen <= self.max_rows

    def __len__(self) -> int:
        return sum(len(part.keys) for part in self._parts)

    def add(
        self,
        predictions: Tensor,
        labels: Tensor,
        weights: Tensor,
        users: Tensor | None = None,
        buckets: Tensor | None = None,
    ) -> None:
        """Add rows: [B, T] each, users [B] int64, buckets [B] int64 below 256 (default: 0)."""
        numbers = np.arange(self._count, self._count + len(labels)) + (self._seed << 40)
        self._count += len(labels)
        self.seen += len(labels)
        self.has_users = self.has_users and users is not None
        known = np.zeros(len(labels), np.int64) if users is None else users.numpy()
        keys = _uniform(hash_ids(numbers)) * (1.0 if users is None else _user_draws(known))
        values = torch.stack([column.T.float() for column in (predictions, labels, weights)])
        of_rows = np.zeros(len(known), np.uint8) if buckets is None else buckets.numpy().astype(np.uint8)
        self._add([_Part(values.numpy(), known, of_rows, keys)])

    def merge(self, other: "RowSample") -> None:
        """Add the rows of `other`."""
        self._limit = min(self._limit, other._limit)
        self.seen += other.seen
        self.has_users = self.has_users and other.has_users
        self._add(other._parts)

    def blocks(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The rows in blocks: predictions, labels and weights [B, T] float64 each."""
        for part in self._parts:
            predictions, labels, weights = torch.from_numpy(part.values).double().transpose(1, 2)
            yield predictions, labels, weights

    def of_task(self, task: int) -> tuple[Rows, Sampling | None]:
        """The rows of the task in column `task`, and how they were sampled; None if they are all rows.

        Users are undefined without `has_users`.
        """
        users, _, values, sampling = self.all()
        return Rows(users, *values[:, task].astype(np.float64)), sampling

    def all(self) -> tuple[Integers, npt.NDArray[np.uint8], npt.NDArray[np.float32], Sampling | None]:
        """Users [N]; buckets [N]; predictions, labels and weights [3, T, N]; and how the rows were sampled."""
        part = self._joined()
        if self.is_complete:
            return part.users, part.buckets, part.values, None
        user_draws = _user_draws(part.users) if self.has_users else np.ones(len(part.users))
        sampling = Sampling(user_draws, part.keys / user_draws, min(self._limit, 1.0))
        return part.users, part.buckets, part.values, sampling

    def _add(self, parts: "Sequence[_Part]") -> None:
        self._parts += parts
        if len(self) > self.max_rows + self.max_rows // 4:  # not at every batch
            self._joined()

    def _joined(self) -> "_Part":
        """All rows as one part, with at most `max_rows` rows."""
        empty = _Part(
            np.zeros((3, self.tasks, 0), np.float32), np.zeros(0, np.int64), np.zeros(0, np.uint8), np.zeros(0)
        )
        joined = self._parts[0] if len(self._parts) == 1 else _concatenated([empty, *self._parts])
        if len(joined.keys) > self.max_rows:
            self._limit = min(self._limit, float(np.partition(joined.keys, self.max_rows)[self.max_rows]))
        if self._limit < np.inf:
            joined = joined.where(joined.keys < self._limit)
        self._parts = [joined]
        return joined


class _Part(NamedTuple):
    """Rows that were added together."""

    values: npt.NDArray[np.float32]  # [3, T, N]: prediction, label, weight
    users: Integers  # [N]
    buckets: npt.NDArray[np.uint8]  # [N]
    keys: Floats  # [N]: u·r

    def where(self, mask: npt.NDArray[np.bool_]) -> "_Part":
        """The rows where `mask` is true."""
        if mask.all():
            return self
        return _Part(self.values[..., mask], self.users[mask], self.buckets[mask], self.keys[mask])


def _concatenated(parts: Sequence[_Part]) -> _Part:
    values, *columns = zip(*parts, strict=True)
    return _Part(np.concatenate(values, axis=2), *map(np.concatenate, columns))


def _user_draws(users: Integers) -> Floats:
    """[N], uniform over (0, 1], equal for the rows of a user."""
    return _uniform(mix(hash_ids(users)))


def _uniform(hashes: npt.NDArray[np.uint64]) -> Floats:
    """[N], uniform over (0, 1]."""
    numbers: Floats = ((hashes >> np.uint64(11)).astype(np.float64) + 1) / 2.0**53
    return numbers
