"""Metrics of lists, the rows of one user ordered by prediction: AUC within lists, and ranks of positives."""

from collections.abc import Sequence

import numpy as np

from recap.config.metrics import SPECS
from recap.evaluation.metrics.rows import Rows, changes


def grouped_auc(rows: Rows) -> float:
    """The mean AUC of users, weighted by their rows (Zhou et al., KDD 2018, arXiv:1706.06978).

    NaN where no user has both labels.
    """
    rows = rows.at(np.lexsort((rows.predictions, rows.users)))
    positives, negatives = rows.weights * rows.labels, rows.weights * (1 - rows.labels)
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
        return float("nan")
    weight = (positive + negative)[both]
    return float((won[both] / (positive * negative)[both] * weight).sum() / weight.sum())


def list_metrics(rows: Rows, hit_at: Sequence[int]) -> dict[str, float]:
    """positive_rank, reciprocal_rank and hit_at_k of the lists of users; NaN without positives.

    A list holds the rows of one user with a weight above 0, the highest prediction first. The rank of a row is 1, plus
    the weight of the rows above it, plus half the weight of other rows with the same prediction: its mean rank over
    all orders of a tie, in a list where a row of weight w stands for w rows. positive_rank is the weighted mean over
    positives. Over lists with a positive, each counted once: reciprocal_rank is the mean of 1 / the best rank of a
    positive, hit_at_k the share whose best rank is at most k.
    """
    rows = rows.at(np.flatnonzero(rows.weights > 0))
    # Sort by all columns, so that sums do not depend on the order of the rows.
    users, predictions, labels, weights = rows.at(
        np.lexsort((rows.labels, rows.weights, -rows.predictions, rows.users))
    )
    positive = labels > 0
    names = ["positive_rank", "reciprocal_rank", *map(SPECS["hit_at"].at, hit_at)]
    if not positive.any():
        return dict.fromkeys(names, float("nan"))
    new_user = changes(users)
    new_tie = new_user | changes(predictions)
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
