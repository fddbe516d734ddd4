"""The rows of metrics that need all rows together, in bounded memory: all of them, or those of a sample of users."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recap.data.encoding.hashing import hash_ids, mix

MAX_ROWS = 1_000_000
"""The maximum number of rows in memory; a row takes 8 bytes, plus 12 for each task."""
Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
_HASH_BITS = 62


class Rows(NamedTuple):
    """N rows of one task."""

    users: Integers
    predictions: Floats
    labels: Floats
    weights: Floats

    def at(self, positions: npt.NDArray[np.intp]) -> "Rows":
        """The rows at `positions`."""
        return Rows(self.users[positions], self.predictions[positions], self.labels[positions], self.weights[positions])


def changes(values: npt.NDArray[np.generic]) -> npt.NDArray[np.bool_]:
    """[N]: whether each value differs from the previous one; True for the first."""
    mask: npt.NDArray[np.bool_] = np.r_[True, values[1:] != values[:-1]][: len(values)]
    return mask


class RowSample:
    """Rows of T tasks: all of them up to `max_rows`, beyond that all rows of a sample of users.

    The sample holds the users whose hash is below 2⁶²⁻ˡ, with the smallest level l at which their rows fit. It depends
    on the set of rows alone, not on their order or on how partial results were merged. Without users, each row counts
    as its own user, with the hash of its values.
    """

    def __init__(self, tasks: int, max_rows: int = MAX_ROWS) -> None:
        self.tasks, self.max_rows = tasks, max_rows
        self.level = 0
        self.has_users = True
        """Whether all rows so far have a user."""
        self._parts: list[_Part] = []

    @property
    def is_complete(self) -> bool:
        """Whether no row was dropped; a function of the number of rows alone."""
        return self.level == 0

    def __len__(self) -> int:
        return sum(len(part.values) for part in self._parts)

    def add(self, predictions: Tensor, labels: Tensor, weights: Tensor, users: Tensor | None = None) -> None:
        """Add rows: [B, T] each, users [B] int64."""
        self._add([_Part(torch.stack([predictions, labels, weights], dim=1).float(), users)], self.level)
        self.has_users = self.has_users and users is not None

    def merge(self, other: "RowSample") -> None:
        """Add the rows of `other`."""
        self._add(other._parts, max(self.level, other.level))
        self.has_users = self.has_users and other.has_users

    def of_task(self, task: int) -> Rows:
        """The rows of the task in column `task`; users are undefined without `has_users`."""
        part = self._joined()
        users = part.users.numpy() if part.users is not None else np.zeros(len(part.values), np.int64)
        return Rows(users, *np.ascontiguousarray(part.values[:, :, task].double().numpy().T))

    def _add(self, parts: "Sequence[_Part]", level: int) -> None:
        if level > self.level:
            self.level = level
            self._parts = [part.sample(level) for part in self._parts]
        self._parts += (part.sample(level) for part in parts)
        if len(self) > self.max_rows:
            hashes = np.concatenate([part.hashes() for part in self._parts])
            while int((hashes < _limit(self.level)).sum()) > self.max_rows:
                self.level += 1
            self._parts = [part.sample(self.level) for part in self._parts]

    def _joined(self) -> "_Part":
        if len(self._parts) == 1:
            return self._parts[0]
        values = torch.cat([torch.zeros(0, 3, self.tasks), *(part.values for part in self._parts)])
        users = [part.users for part in self._parts if part.users is not None]
        joined = _Part(values, torch.cat([torch.zeros(0, dtype=torch.int64), *users]) if self.has_users else None)
        if len(users) in (0, len(self._parts)):  # otherwise rows with and without users are hashed differently
            self._parts = [joined]
        return joined


class _Part(NamedTuple):
    """Rows that were added together."""

    values: Tensor  # [N, 3, T] float32: prediction, label, weight
    users: Tensor | None  # [N] int64

    def hashes(self) -> npt.NDArray[np.uint64]:
        """[N] hashes, uniform over [0, 2⁶²)."""
        if self.users is not None:
            hashes = hash_ids(self.users.numpy())
        else:
            bits = self.values.flatten(1).contiguous().numpy().view(np.uint32).astype(np.uint64)
            hashes = np.zeros(len(bits), np.uint64)
            for column in bits.T:
                hashes = hash_ids((mix(hashes) ^ column).view(np.int64))
        return hashes >> np.uint64(64 - _HASH_BITS)

    def sample(self, level: int) -> "_Part":
        """The rows of the users in the sample of `level`."""
        if level == 0:
            return self
        mask = torch.from_numpy(self.hashes() < _limit(level))
        return _Part(self.values[mask], self.users[mask] if self.users is not None else None)


def _limit(level: int) -> np.uint64:
    """The upper bound of hashes in the sample; each level halves it."""
    return np.uint64((1 << _HASH_BITS) >> level)
