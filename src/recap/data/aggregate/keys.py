"""Keys: the ids of one or more columns ↔ codes, which count the distinct keys from 0."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from recap.data.aggregate.log import Integers


@dataclass(frozen=True)
class KeyIndex:
    """The distinct keys of some rows."""

    ids: list[Integers]
    """Of each column, its distinct ids, ascending."""
    pairs: list[Integers]
    """Of each column after the first: the distinct pairs of what came before it and its id, ascending."""

    @classmethod
    def of(cls, parts: Sequence[Integers]) -> tuple[Self, Integers]:
        """The index of rows whose key has the ids `parts`, [rows] each; and the code of each row, [rows]."""
        distinct, codes = np.unique(parts[0], return_inverse=True)
        ids, all_pairs = [distinct], []
        for part in parts[1:]:
            distinct, positions = np.unique(part, return_inverse=True)
            pairs, codes = np.unique(codes * len(distinct) + positions, return_inverse=True)
            ids.append(distinct)
            all_pairs.append(pairs)
        return cls(ids, all_pairs), codes

    @property
    def size(self) -> int:
        """The number of distinct keys."""
        return len(self.pairs[-1] if self.pairs else self.ids[0])

    def codes(self, parts: Sequence[Integers]) -> Integers:
        """The code of each key, [rows]; -1 if it is not in the index."""
        codes = _positions(self.ids[0], parts[0])
        for distinct, pairs, part in zip(self.ids[1:], self.pairs, parts[1:], strict=True):
            positions = _positions(distinct, part)
            pair = np.where((codes < 0) | (positions < 0), -1, codes * len(distinct) + positions)
            codes = _positions(pairs, pair)
        return codes


def _positions(ascending: Integers, values: Integers) -> Integers:
    """The position of each value, -1 if it is absent."""
    if not len(ascending):
        return np.full(len(values), -1, np.int64)
    positions = np.searchsorted(ascending, values).clip(max=len(ascending) - 1)
    return np.where(ascending[positions] == values, positions, -1)
