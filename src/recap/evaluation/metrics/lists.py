"""Metrics of lists, the rows of one user ordered by prediction: AUC within lists, and ranks of positives.

Of a sample they are estimates, weighted by the inverse of the chance with which a user and its rows were sampled
(Horvitz and Thompson, JASA 1952), and come with bounds of `DEVIATIONS` standard errors.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from recap.config.evaluation.metrics import SPECS, bound_of
from recap.evaluation.metrics.ranking import auc_variance
from recap.evaluation.metrics.rows import Floats, Rows, Sampling, changes

DEVIATIONS = 3.0
"""Standard errors that make a bound: of 1,000 samples, 3 exceed it."""
_FEWEST = 5
"""Positives, and negatives, from which the sampled rows of a thinned user stand for all of them."""


class _Users(NamedTuple):
    """Rows with, for each, the share of its user's rows that are in the sample, and the chance of its user."""

    rows: Rows
    shares: Floats
    chances: Floats

    def at(self, positions: npt.NDArray[np.intp]) -> "_Users":
        return _Users(self.rows.at(positions), self.shares[positions], self.chances[positions])


def grouped_auc(rows: Rows, sampling: Sampling | None = None) -> dict[str, float]:
    """The mean AUC of users, weighted by their rows (Zhou et al., KDD 2018, arXiv:1706.06978).

    NaN where no user has both labels. `grouped_auc_bound` only of a sample.
    """
    users = _users(rows, sampling)
    rows, shares, chances = users.at(np.lexsort((users.rows.predictions, users.rows.users)))
    weights = rows.weights / shares
    positives, negatives = weights * rows.labels, weights * (1 - rows.labels)
    new_user = changes(rows.users)
    new_tie = new_user | changes(rows.predictions)
    user, tie = np.cumsum(new_user) - 1, np.cumsum(new_tie) - 1
    below = np.r_[0.0, np.cumsum(negatives)]
    tie_start, user_start = np.flatnonzero(new_tie), np.flatnonzero(new_user)
    tied = np.bincount(tie, negatives, minlength=len(tie_start))
    under = below[tie_start][tie] - below[user_start][user] + 0.5 * tied[tie]
    won = np.bincount(user, positives * under)
    positive, negative = np.bincount(user, positives), np.bincount(user, negatives)
    both = (positive > 0) & (negative > 0)
    if not both.any():
        return _undefined(["grouped_auc"], sampling)
    share, chance = shares[user_start][both], chances[user_start][both]
    areas = won[both] / (positive * negative)[both]
    weight = (positive + negative)[both]
    total = (weight / chance).sum()
    value = float((areas * (weight / chance)).sum() / total)
    if sampling is None:
        return {"grouped_auc": value}
    counted = rows.weights > 0
    counts = [np.bincount(user, counted & (rows.labels == label))[both] for label in (1, 0)]
    within = (1 - share) * auc_variance(areas, *counts)
    variance = ((1 - chance) * (areas - value) ** 2 + within) * (weight / chance) ** 2
    return {"grouped_auc": value, bound_of("grouped_auc"): float(DEVIATIONS * np.sqrt(variance.sum()) / total)}


def list_metrics(rows: Rows, hit_at: Sequence[int], sampling: Sampling | None = None) -> dict[str, float]:
    """positive_rank, reciprocal_rank and hit_at_k of the lists of users; NaN without positives.

    A list holds the rows of one user with a weight above 0, the highest prediction first. The rank of a row is 1, plus
    the weight of the rows above it, plus half the weight of other rows with the same prediction: its mean rank over
    all orders of a tie, in a list where a row of weight w stands for w rows. positive_rank is the weighted mean over
    positives. Over lists with a positive, each counted once: reciprocal_rank is the mean of 1 / the best rank of a
    positive, hit_at_k the share whose best rank is at most k; of a sample, over the lists that are there whole.
    """
    users = _users(rows, sampling)
    users = users.at(np.flatnonzero(users.rows.weights > 0))
    # Sort by all columns, so that sums do not depend on the order of the rows.
    rows = users.rows
    rows, shares, chances = users.at(np.lexsort((rows.labels, rows.weights, -rows.predictions, rows.users)))
    weights = rows.weights / shares
    positive = rows.labels > 0
    names = ["positive_rank", "reciprocal_rank", *map(SPECS["hit_at"].at, hit_at)]
    if not positive.any():
        return _undefined(names, sampling)
    new_user = changes(rows.users)
    new_tie = new_user | changes(rows.predictions)
    user, tie = np.cumsum(new_user) - 1, np.cumsum(new_tie) - 1
    before = np.r_[0.0, np.cumsum(weights)]
    above = before[np.flatnonzero(new_tie)][tie] - before[np.flatnonzero(new_user)][user]
    others = np.maximum(np.bincount(tie, weights)[tie] - weights, 0.0)
    ranks = 1 + above + others / 2
    best = np.full(user[-1] + 1, np.inf)
    whole = positive & (shares == 1)
    np.minimum.at(best, user[whole], ranks[whole])
    first = best[np.isfinite(best)]
    rank = float(np.average(ranks[positive], weights=(weights / chances)[positive]))
    by_list = [1 / first, *((first <= k).astype(np.float64) for k in hit_at)]
    values = [rank, *(float(value.mean()) if len(first) else np.nan for value in by_list)]
    metrics = dict(zip(names, values, strict=True))
    if sampling is None:
        return metrics
    noise = np.sqrt((1 - shares) * weights * (above + others / 2))  # the standard error of a rank in a thinned list
    columns = (column[positive] for column in (weights / chances, ranks - rank, shares, chances, noise))
    bounds = [_rank_bound(user[positive], *columns), *(_mean_bound(value, sampling.limit) for value in by_list)]
    return metrics | dict(zip(map(bound_of, names), bounds, strict=True))


def _rank_bound(
    user: npt.NDArray[np.intp], weights: Floats, deviations: Floats, shares: Floats, chances: Floats, noise: Floats
) -> float:
    """The bound of a mean rank, from its positives: their users were sampled, and in thinned lists their rows too."""
    of_users = np.bincount(user, np.sqrt(1 - chances) * weights * deviations) ** 2
    of_ranks = np.bincount(user, weights * noise) ** 2
    of_rows = (1 - shares) * (weights * deviations) ** 2
    return float(DEVIATIONS * np.sqrt(of_users.sum() + of_ranks.sum() + of_rows.sum()) / weights.sum())


def _mean_bound(values: Floats, share: float) -> float:
    """The bound of a mean in [0, 1] over a `share` of all lists."""
    if not len(values):
        return float("nan")
    return float(DEVIATIONS * (np.sqrt((1 - share) * values.var() / len(values)) + 1 / len(values)))


def _undefined(names: Sequence[str], sampling: Sampling | None) -> dict[str, float]:
    return dict.fromkeys([*names, *(map(bound_of, names) if sampling is not None else ())], float("nan"))


def _users(rows: Rows, sampling: Sampling | None) -> _Users:
    """The users that represent all of them: whole ones, and thinned ones with enough positives and negatives.

    Given the draws of its rows, a user is among them if its own draw is below t / R. R is the largest of the `_FEWEST`
    smallest draws of its positives, or of its negatives, whichever is larger; 1 if it has fewer of one of them. t / R
    is therefore the chance of the user, at most 1: users of many rows are certain to be among them.
    """
    ones = np.ones(len(rows.users))
    if sampling is None:
        return _Users(rows, ones, ones)
    user_draws, row_draws, limit = sampling
    _, user = np.unique(rows.users, return_inverse=True)
    needed = np.zeros(user.max(initial=-1) + 1)
    for label in (0, 1):
        mine = np.flatnonzero((rows.labels == label) & (rows.weights > 0))
        mine = mine[np.lexsort((row_draws[mine], user[mine]))]
        start = np.flatnonzero(changes(user[mine]))
        number = np.arange(len(mine)) - start[np.cumsum(changes(user[mine])) - 1]
        last = np.ones(len(needed))
        fifth = mine[number == _FEWEST - 1]
        last[user[fifth]] = row_draws[fifth]
        needed = np.maximum(needed, last)
    chances = np.minimum(limit / needed[user], 1.0)
    mask = np.flatnonzero(user_draws < chances)
    return _Users(rows, np.minimum(limit / user_draws, 1.0), chances).at(mask)
