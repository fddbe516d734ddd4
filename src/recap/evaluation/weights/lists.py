"""`ListSample`: some real lists with the predictions of all tasks, re-ranked by other weights here and in the report.

`what_if.js` of the report computes the same numbers by the same definitions, so both must change together.

- **Order**: the rows of a list by S = Σ wₜ·pₜ, the highest first; equal rows stay in the order of the sample.
- **Attention** at place r of a list, from 1: 1 / log₂(r + 1) for r ≤ `SEEN`, 0 below.
- **Expected engagements** per 1,000 impressions: 1,000 · Σ attention · p / Σ attention over all lists, with p the
  calibrated prediction. It believes the model. For a regression it is the value per 1,000 impressions.
- **Observed engagements**: the same of the labels. Of rare tasks they are few.
- **Kendall's τ** of two orders of a list: (concordant − discordant pairs) / pairs; the mean over lists.
- **Overlap** of two orders: the share of the first `TOP` rows that they have in common; the mean over lists.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from recap.evaluation.metrics.rows import Floats, Positions, ranks_in_lists, rows_of_lists
from recap.evaluation.metrics.whole_lists import ListedRows

TOP = 5
"""Rows at the top of a list whose overlap is measured."""
SEEN = 10
"""Places of a list that get attention."""
MIN_ROWS = TOP
"""Rows of the shortest list of a sample."""
MAX_ROWS = 30
"""Rows of the longest list of a sample; of a longer one, those with the smallest hash."""
MAX_LISTS = 300
MAX_BYTES = 390_000
"""Most characters of the encoded values of a sample; a model of many tasks gets fewer lists."""
_CHARACTER_BITS = 6
"""Of base64."""
_HALF_RANGE = 14
"""Values are scaled by a power of 2 so that the largest is at least 2**14: all digits of a float16 over 9 decades."""
Weights = Mapping[str, float]
"""Task → weight in the score; default: 0."""


@dataclass(frozen=True, eq=False)
class ListSample:
    """N rows of L lists with T tasks; the rows of a list side by side."""

    tasks: Sequence[str]
    weights: Weights
    """Those of the model, of the tasks that have one."""
    regressions: Sequence[str]
    predictions: Floats  # [N, T], calibrated, to 11 bits
    labels: Floats  # [N, T], times the weight of the row
    sizes: Positions  # [L]
    lists: int
    """Lists of the data with at least `MIN_ROWS` rows; an estimate beyond the rows that are kept to draw from."""

    @classmethod
    def of(
        cls, rows: ListedRows, tasks: Sequence[str], weights: Weights, regressions: Sequence[str], share: float = 1.0
    ) -> Self:
        """The first lists of `rows`, by hash, with values [N, 2T]: predictions, then labels.

        `share`: of all lists, the share that is among `rows`.
        """
        count = len(tasks)
        draws, values = rows.first(MAX_ROWS)
        _, starts, sizes = np.unique(draws, return_index=True, return_counts=True)
        long = np.flatnonzero(sizes >= MIN_ROWS)
        bits = sum(1 if _are_bits(column) else 16 for column in values.T)
        chosen = long[: min(MAX_LISTS, max(1, MAX_BYTES * _CHARACTER_BITS // (bits * MAX_ROWS)))]
        starts, sizes = starts[chosen], sizes[chosen]
        at = rows_of_lists(starts, sizes)
        columns = [_decoded(_encoded(column), len(at)) for column in values[at].T]
        table = np.stack(columns, axis=1)
        used = {task: float(weights[task]) for task in tasks if weights.get(task)}
        numbers = [task for task in tasks if task in regressions]
        return cls(list(tasks), used, numbers, table[:, :count], table[:, count:], sizes, round(len(long) / share))

    def to_json(self) -> dict[str, Any]:
        """Compact: columns in base64, see `_encoded`."""
        return {
            "lists": self.lists,
            "sizes": self.sizes.tolist(),
            "tasks": [
                {
                    "name": task,
                    "weight": self.weights.get(task, 0.0),
                    "regression": task in self.regressions,
                    "predictions": _encoded(self.predictions[:, index]),
                    "labels": _encoded(self.labels[:, index]),
                }
                for index, task in enumerate(self.tasks)
            ],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        tasks, sizes = content["tasks"], np.array(content["sizes"], np.intp)
        predictions, labels = (
            np.stack([_decoded(task[name], int(sizes.sum())) for task in tasks], axis=1)
            for name in ("predictions", "labels")
        )
        return cls(
            [task["name"] for task in tasks],
            {task["name"]: task["weight"] for task in tasks if task["weight"]},
            [task["name"] for task in tasks if task["regression"]],
            predictions,
            labels,
            sizes,
            content["lists"],
        )

    @cached_property
    def starts(self) -> Positions:
        """[L]: the first row of each list."""
        starts: Positions = np.cumsum(self.sizes) - self.sizes
        return starts

    @cached_property
    def numbers(self) -> Positions:
        """[N]: the list of each row."""
        return np.repeat(np.arange(len(self.sizes)), self.sizes)

    @cached_property
    def ranks(self) -> Positions:
        """[N]: ranks 0, 1, … of each list."""
        return ranks_in_lists(self.starts, len(self.numbers))

    @cached_property
    def attention(self) -> Floats:
        """[N]: the share of the attention to all lists that each place has."""
        attention = np.where(self.ranks < SEEN, 1 / np.log2(self.ranks + 2.0), 0.0)
        shares: Floats = attention / attention.sum()
        return shares

    @cached_property
    def means(self) -> dict[str, float]:
        """Task → mean of |p| over the rows."""
        return dict(zip(self.tasks, np.abs(self.predictions).mean(axis=0).tolist(), strict=True))

    def order(self, weights: Weights) -> Positions:
        """[N]: the rows of each list, the highest score first."""
        scores = np.zeros(len(self.numbers))
        for index, task in enumerate(self.tasks):  # in this order, as in the page: sums round alike
            scores += weights.get(task, 0.0) * self.predictions[:, index]
        order: Positions = np.lexsort((-scores, self.numbers))
        return order

    def expected(self, order: Positions) -> dict[str, float]:
        """Task → expected engagements per 1,000 impressions."""
        return self._per_thousand(self.predictions, order)

    def observed(self, order: Positions) -> dict[str, float]:
        """Task → observed engagements per 1,000 impressions."""
        return self._per_thousand(self.labels, order)

    def kendall(self, one: Positions, other: Positions) -> float:
        """Mean over lists of Kendall's τ of two orders, −1 to 1."""
        ranks = np.empty((2, len(one)), np.intp)
        ranks[0, one] = ranks[1, other] = self.ranks
        agreements = np.empty(len(self.sizes))
        for number, (start, size) in enumerate(zip(self.starts, self.sizes, strict=True)):
            first, second = (np.sign(np.subtract.outer(row, row)) for row in ranks[:, start : start + size])
            agreements[number] = (first * second).sum() / (size * (size - 1))
        return float(agreements.mean())

    def overlap(self, one: Positions, other: Positions) -> float:
        """Mean over lists of the share of the first `TOP` rows that two orders have in common."""
        top = np.zeros((2, len(one)), bool)
        top[0, one] = top[1, other] = self.ranks < TOP
        return float((np.add.reduceat(top[0] & top[1], self.starts, dtype=np.intp) / TOP).mean())

    def equalized(self) -> dict[str, float]:
        """Weights with which each task contributes equally, with the signs and the sum of contributions of today's.

        |w|·mean |p| is the same for all tasks that have a weight. Rounded to 4 significant digits.
        """
        weights = {task: weight for task, weight in self.weights.items() if self.means[task] > 0}
        total = sum(abs(weight) * self.means[task] for task, weight in weights.items())
        equal = {
            task: float(f"{np.sign(weight) * total / len(weights) / self.means[task]:.4g}")
            for task, weight in weights.items()
        }
        return {**self.weights, **equal}

    def _per_thousand(self, values: Floats, order: Positions) -> dict[str, float]:
        sums: npt.NDArray[np.float64] = 1000 * (self.attention[:, None] * values[order]).sum(axis=0)
        return dict(zip(self.tasks, sums.tolist(), strict=True))


def _are_bits(values: npt.NDArray[Any]) -> bool:
    return bool(((values == 0) | (values == 1)).all())


def _encoded(values: npt.NDArray[Any]) -> dict[str, Any]:
    """Finite values [N] in base64: as bits, the first one the highest of a byte, if they are 0 and 1.

    Else as float16, with the exponent of the power of 2 with which they were multiplied.
    """
    if _are_bits(values):
        return {"bits": base64.b64encode(np.packbits(values.astype(bool)).tobytes()).decode()}
    exponent = _HALF_RANGE - int(np.floor(np.log2(np.abs(values).max())))
    halves = np.ldexp(values.astype(np.float64), exponent).astype("<f2")
    return {"halves": base64.b64encode(halves.tobytes()).decode(), "exponent": exponent}


def _decoded(encoded: Mapping[str, Any], count: int) -> Floats:
    """[`count`] float64."""
    if "bits" in encoded:
        packed = np.frombuffer(base64.b64decode(encoded["bits"]), np.uint8)
        return np.unpackbits(packed, count=count).astype(np.float64)
    halves = np.frombuffer(base64.b64decode(encoded["halves"]), "<f2").astype(np.float64)
    values: Floats = np.ldexp(halves, -encoded["exponent"])
    return values
