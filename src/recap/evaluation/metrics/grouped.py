"""AUC within each user's own impressions, averaged over users, in bounded memory."""

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

KEPT_ROWS = 1_000_000
"""Rows kept at the most; 8 bytes a row and 12 a row and task."""


class GroupedAuc(Metric):
    """Mean AUC over users who have both labels, weighted by their rows (Zhou et al., KDD 2018, arXiv:1706.06978).

    All rows of every user are kept while they fit. Beyond that, only users whose hash falls below 2⁻ˡ stay, and l grows
    until they fit: a sample of whole users that depends on the set of rows alone, not on their order.
    """

    full_state_update = False

    def __init__(self, tasks: int, kept_rows: int = KEPT_ROWS) -> None:
        super().__init__(compute_with_cache=False, sync_on_compute=False)
        self.tasks, self.kept_rows = tasks, kept_rows
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
        """`grouped_auc` → [T] float64; NaN where no user has both labels."""
        users = torch.cat([*self.users, torch.zeros(0, dtype=torch.int64)]).numpy()
        values = torch.cat([*self.values, torch.zeros(0, 3, self.tasks)]).double().numpy()
        found = [grouped_auc(users, *values[:, :, task].T) for task in range(self.tasks)]
        return {"grouped_auc": torch.tensor(found, dtype=torch.float64)}

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


def grouped_auc(
    users: "np.ndarray[tuple[int], np.dtype[np.int64]]",
    probabilities: "np.ndarray[tuple[int], np.dtype[np.float64]]",
    labels: "np.ndarray[tuple[int], np.dtype[np.float64]]",
    weights: "np.ndarray[tuple[int], np.dtype[np.float64]]",
) -> float:
    """The mean over users of their AUC, weighted by the weight of their rows; NaN where no user has both labels."""
    order = np.lexsort((probabilities, users))
    users, probabilities = users[order], probabilities[order]
    positives, negatives = (weights * labels)[order], (weights * (1 - labels))[order]
    new_user = np.r_[True, users[1:] != users[:-1]][: len(users)]
    new_tie = new_user | np.r_[True, probabilities[1:] != probabilities[:-1]][: len(users)]
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
