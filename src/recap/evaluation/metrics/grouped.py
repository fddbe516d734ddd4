"""Metrics of each user's own rows, a list ordered by prediction, in bounded memory: AUC, and where positives stand."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchmetrics import Metric

KEPT_ROWS = 1_000_000
"""Rows kept at the most; 8 bytes a row and 12 a row and task."""
Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


class Rows(NamedTuple):
    """N rows of one task."""

    users: Integers
    probabilities: Floats
    labels: Floats
    weights: Floats

    def at(self, places: Integers) -> "Rows":
        """Those at `places`."""
        return Rows(self.users[places], self.probabilities[places], self.labels[places], self.weights[places])


class GroupedMetrics(Metric):
    """grouped_auc, positive_rank, reciprocal_rank and hit_at_k of T tasks at once, by users.

    All rows of every user are kept while they fit. Beyond that, only users whose hash falls below 2⁻ˡ stay, and l grows
    until they fit: a sample of whole users that depends on the set of rows alone, not on their order.
    """

    full_state_update = False

    def __init__(self, tasks: int, hit_at: Sequence[int] = (), kept_rows: int = KEPT_ROWS) -> None:
        super().__init__(compute_with_cache=False, sync_on_compute=False)
        self.tasks, self.hit_at, self.kept_rows = tasks, tuple(hit_at), kept_rows
        self.level: Tensor
        self.users: list[Tensor]
        self.values: list[Tensor]
        self.add_state("level", torch.zeros((), dtype=torch.int64), dist_reduce_fx="max")
        self.add_state("users", [], dist_reduce_fx="cat")  # [N] int64
        self.add_state("values", [], dist_reduce_fx="cat")  # [N, 3, T] float32: probability, label, weight

    def update(self, probabilities: Tensor, labels: Tensor, weights: Tensor, users: Tensor) -> None:
        """[B, T] float64 each, users [B] int64."""
        kept = _hash(users) < _threshold(int(self.level))
        self.users.append(users[kept])
        self.values.append(torch.stack([probabilities, labels, weights], dim=1).float()[kept])
        self._fit()

    def merge_state(self, incoming_state: "dict[str, Tensor] | Metric") -> None:
        """Take in the rows of another one."""
        super().merge_state(incoming_state)
        self._fit(always=True)

    def compute(self) -> dict[str, Tensor]:
        """Metric → [T] float64; NaN where no user has both labels, or for ranks a positive."""
        users = torch.cat([*self.users, torch.zeros(0, dtype=torch.int64)]).numpy()
        values = torch.cat([*self.values, torch.zeros(0, 3, self.tasks)]).double().numpy()
        found: list[dict[str, float]] = []
        for task in range(self.tasks):
            rows = Rows(users, *values[:, :, task].T)
            found.append({"grouped_auc": grouped_auc(*rows), **list_metrics(rows, self.hit_at)})
        return {name: torch.tensor([each[name] for each in found], dtype=torch.float64) for name in found[0]}

    def _fit(self, *, always: bool = False) -> None:
        rows = sum(len(part) for part in self.users)
        if rows <= self.kept_rows and not always:
            return
        users, values = torch.cat(self.users), torch.cat(self.values)
        hashes = _hash(users)
        level = int(self.level)
        while int((hashes < _threshold(level)).sum()) > self.kept_rows:
            level += 1
        kept = hashes < _threshold(level)
        self.level.fill_(level)
        self.users, self.values = [users[kept]], [values[kept]]


def grouped_auc(users: Integers, probabilities: Floats, labels: Floats, weights: Floats) -> float:
    """The mean over users of their AUC, weighted by their rows (Zhou et al., KDD 2018, arXiv:1706.06978).

    NaN where no user has both labels.
    """
    order = np.lexsort((probabilities, users))
    users, probabilities = users[order], probabilities[order]
    positives, negatives = (weights * labels)[order], (weights * (1 - labels))[order]
    new_user = _changes(users)
    new_tie = new_user | _changes(probabilities)
    user, tie = np.cumsum(new_user) - 1, np.cumsum(new_tie) - 1
    below = np.r_[0.0, np.cumsum(negatives)]
    tie_start, user_start = np.flatnonzero(new_tie), np.flatnonzero(new_user)
    tied = np.bincount(tie, negatives, minlength=len(tie_start))
    under = below[tie_start][tie] - below[user_start][user] + 0.5 * tied[tie]
    won = np.bincount(user, positives * under)
    positive, negative = np.bincount(user, positives), np.bincount(user, negatives)
    both = (positive > 0) & (negative > 0)
    if not both.any():
        return float("nan")
    weight = (positive + negative)[both]
    return float((won[both] / (positive * negative)[both] * weight).sum() / weight.sum())


def hit_name(k: int) -> str:
    """What the share of lists with a positive among the first `k` is called."""
    return f"hit_at_{k}"


def list_metrics(rows: Rows, hit_at: Sequence[int]) -> dict[str, float]:
    """Where positives stand in the lists that rows of weight above 0 form: one a user, the highest prediction first.

    The rank of a row is 1, plus the weight of the rows of its list above it, plus half that of others of the same
    prediction: its mean rank over all orders of a tie, in a list where a row of weight w stands for w rows. The mean
    over positives of their rank, by their weight; over lists with a positive, each counted once, the mean of 1 / the
    best rank of a positive, and the share of those where it is k or less. NaN without positives.
    """
    rows = rows.at(np.flatnonzero(rows.weights > 0))
    # By all they are, so that sums are the same in whatever order rows came.
    order = np.lexsort((rows.labels, rows.weights, -rows.probabilities, rows.users))
    users, probabilities, labels, weights = rows.at(order)
    positive = labels > 0
    names = ["positive_rank", "reciprocal_rank", *map(hit_name, hit_at)]
    if not positive.any():
        return dict.fromkeys(names, float("nan"))
    new_user = _changes(users)
    new_tie = new_user | _changes(probabilities)
    user, tie = np.cumsum(new_user) - 1, np.cumsum(new_tie) - 1
    before = np.r_[0.0, np.cumsum(weights)]
    above = before[np.flatnonzero(new_tie)][tie] - before[np.flatnonzero(new_user)][user]
    others = np.maximum(np.bincount(tie, weights)[tie] - weights, 0.0)
    ranks = 1 + above + others / 2
    best = np.full(user[-1] + 1, np.inf)
    np.minimum.at(best, user[positive], ranks[positive])
    first = best[np.isfinite(best)]
    values = [np.average(ranks[positive], weights=weights[positive]), (1 / first).mean()]
    values += [(first <= k).mean() for k in hit_at]
    return dict(zip(names, map(float, values), strict=True))


def _changes(values: npt.NDArray[np.generic]) -> Flags:
    """[N]: whether each differs from the one before; the first does."""
    changes: Flags = np.r_[True, values[1:] != values[:-1]][: len(values)]
    return changes


def _threshold(level: int) -> int:
    """Hashes lie in [0, 2⁶²); a level halves them."""
    return 1 << (62 - level)


def _hash(users: Tensor) -> Tensor:
    """[N] int64 → [N] int64, evenly over [0, 2⁶²) (the finalizer of splitmix64, Steele et al., OOPSLA 2014)."""
    mixed = users.numpy().astype(np.uint64)
    with np.errstate(over="ignore"):
        mixed = mixed + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed = mixed ^ (mixed >> np.uint64(31))
    return torch.from_numpy((mixed >> np.uint64(2)).astype(np.int64))
