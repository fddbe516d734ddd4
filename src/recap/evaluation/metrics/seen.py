"""Which rows were evaluated: their fingerprint, and the number of their users; in any order, in bounded memory."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from recap.data.encoding.hashing import Unsigned, hash_ids, hash_text
from recap.evaluation.metrics.rows import changes, float_bits

SKETCH = 65_536
"""Users up to which their number is exact; beyond, its standard error is 0.4 %."""


class DistinctUsers:
    """The number of distinct users: exact up to `size`, then estimated from the `size` smallest hashes.

    The k-th smallest of n uniform numbers in (0, 1] is about k / n (Bar-Yossef et al., RANDOM 2002).
    """

    def __init__(self, size: int = SKETCH) -> None:
        self.size = size
        self._limit: np.uint64 | None = None
        """The largest hash that counts, once some are dropped."""
        self._parts: list[Unsigned] = []
        self._pending = 0

    def add(self, hashes: Unsigned) -> None:
        """Add the users of rows, [B]."""
        smallest = hashes if self._limit is None else hashes[hashes <= self._limit]
        self._parts.append(smallest)
        self._pending += len(smallest)
        if self._pending > self.size:
            self._smallest()

    def merge(self, other: "DistinctUsers") -> None:
        """Add the users of `other`."""
        for part in other._parts:
            self.add(part)
        if other._limit is not None:
            self._limit = other._limit if self._limit is None else min(self._limit, other._limit)

    def count(self) -> int:
        """The number of users."""
        hashes = self._smallest()
        if self._limit is None:
            return len(hashes)
        return round((len(hashes) - 1) / (float(self._limit) / 2.0**64))

    def _smallest(self) -> Unsigned:
        hashes = np.sort(np.concatenate([np.zeros(0, np.uint64), *self._parts]))  # faster than np.unique, which hashes
        hashes = hashes[changes(hashes)]
        if len(hashes) > self.size:
            self._limit = hashes[self.size - 1]
        if self._limit is not None:
            hashes = hashes[hashes <= self._limit]
        self._parts, self._pending = [hashes], 0
        return hashes


class Fingerprints:
    """For each of T tasks, a number of 64 bits that tells its rows with a weight: users, labels and weights.

    Σ h(user) · (a·label + b·weight + c) modulo 2⁶⁴ over the bits of label and weight, with odd a and b.
    """

    _LABEL, _WEIGHT, _ROW = np.array([0xA0761D6478BD642F, 0xE7037ED1A0B428DB, 0x8EBC6AF09C88C6E3], np.uint64)

    def __init__(self, tasks: int) -> None:
        self.sums = np.zeros(tasks, np.uint64)

    def add(self, hashes: Unsigned, labels: npt.NDArray[np.float32], weights: npt.NDArray[np.float32]) -> None:
        """Add rows: hashes of users [B], labels and weights [T, B]."""
        rows = float_bits(labels) * self._LABEL + float_bits(weights) * self._WEIGHT + self._ROW
        self.sums += (rows * hashes * (weights > 0)).sum(axis=1, dtype=np.uint64)

    def merge(self, other: "Fingerprints") -> None:
        """Add the rows of `other`."""
        self.sums += other.sums

    def result(self, tasks: Sequence[str]) -> dict[str, str]:
        """Task → 16 hexadecimal digits."""
        return {task: f"{value:016x}" for task, value in zip(tasks, self.sums.tolist(), strict=True)}


NO_USER = hash_ids(np.zeros(1, np.int64))
"""The hash of the users of rows without users."""


def joint_fingerprint(by_task: Mapping[str, str]) -> str:
    """One fingerprint of the rows of all tasks, in any order of the tasks."""
    text = " ".join(f"{task}={by_task[task]}" for task in sorted(by_task))
    return f"{hash_text(text) & (1 << 64) - 1:016x}"
