"""Buckets of users: metrics are functions of sums over them, so their error follows by leaving out one at a time."""

from collections.abc import Mapping
from typing import Protocol, Self

import numpy as np
import torch
from torch import Tensor

from recap.data.encoding.hashing import Unsigned, hash_ids, mix

BUCKETS = 64
"""The groups of users: a user, with all its rows, is in one of them."""
Totals = Mapping[str, Tensor]
"""Name → sums over rows, with a leading axis of buckets or without one."""


class Family(Protocol):
    """A family of metrics of T tasks, each a function of sums over rows."""

    def compute(self, totals: Totals) -> dict[str, Tensor]:
        """Metric → [*leading, T] float64 from sums [*leading, …], NaN where undefined.

        Leading axes are those of the argument: none for the sum over buckets, one for the sums without each bucket.
        """


class Statistic(Family, Protocol):
    """A family whose sums grow row by row; they do not depend on the order of rows."""

    def update(self, predictions: Tensor, labels: Tensor, weights: Tensor, buckets: Tensor) -> None:
        """Add rows: [B, T] float64 each, `buckets` [B] int64. Rows of weight 0 do not count."""

    def merge(self, other: Self) -> None:
        """Add the rows of `other`."""

    def totals(self) -> Totals:
        """The sums of each bucket, [BUCKETS, …] float64 each."""


class BucketSums:
    """Sums of rows by bucket; made once for the B rows of an update, for all that is summed."""

    def __init__(self, buckets: Tensor, tasks: int, groups: int) -> None:
        """`buckets` [B] int64, below `groups`."""
        self._cells = (torch.arange(tasks)[:, None] * groups + buckets).flatten().numpy()  # tasks × rows
        self._shape = (tasks, groups)

    def __call__(self, values: Tensor) -> Tensor:
        """[B, T] float64 → [groups, T] float64. Fastest if the values of a task lie side by side."""
        tasks, groups = self._shape
        sums = np.bincount(self._cells, values.T.flatten().numpy(), minlength=tasks * groups)
        return torch.from_numpy(sums).view(tasks, groups).T


def bucket_of(users: Tensor) -> Tensor:
    """[B] int64 ids of users → [B] int64, the bucket of each: a hash of the id, evenly spread.

    Rows without users have buckets by the number of the row, which treats them as independent.
    """
    return torch.from_numpy(buckets_of_hashes(mix(hash_ids(users.numpy()))).astype(np.int64))


def buckets_of_hashes(hashes: Unsigned) -> Unsigned:
    """[B] mixed hashes of users → [B], the bucket of each. Their high bits remain for other uses."""
    return hashes % np.uint64(BUCKETS)


def values(family: Family, totals: Totals) -> dict[str, Tensor]:
    """Metric → [T], over all buckets."""
    return family.compute({name: total.sum(dim=0) for name, total in totals.items()})


def replicates(family: Family, totals: Totals) -> dict[str, Tensor]:
    """Metric → [BUCKETS, T], the value without the rows of each bucket."""
    return family.compute({name: total.sum(dim=0) - total for name, total in totals.items()})
