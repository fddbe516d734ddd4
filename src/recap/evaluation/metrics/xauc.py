"""XAUC: the share of pairs of rows that the predictions of a regression order correctly."""

import math

import numpy as np

from recap.evaluation.metrics.rows import Rows, changes


def xauc_bound(value: float, rows: Rows) -> float:
    """Three standard errors of an XAUC over a uniform sample of rows.

    The variance is at most 2·x·(1 − x) / n, that of Kendall's tau (Kendall, Rank Correlation Methods, 1948), where n
    is the number of rows of equal weight that tell as much.
    """
    total = rows.weights.sum()
    if math.isnan(value) or not total:
        return math.nan
    return 3 * math.sqrt(2 * value * (1 - value) * float((rows.weights**2).sum())) / float(total)


def xauc(rows: Rows) -> float:
    """The weighted share of pairs with different labels that predictions order as the labels do; ties count half.

    Zhan et al., KDD 2022 (arXiv:2206.06003). The weight of a pair is the product of its rows' weights. O(N log² N).
    NaN where no pair counts.
    """
    rows = rows.at(np.flatnonzero(rows.weights > 0))
    _, predictions, labels, weights = rows.at(np.argsort(rows.predictions, kind="stable"))
    rank = np.unique(labels, return_inverse=True)[1].reshape(-1)
    tie = np.cumsum(changes(predictions))
    won = pairs = 0.0
    # From the highest bit down, two ranks first differ in one bit, so each pair is counted once.
    for level in range(int(rank.max(initial=0)).bit_length()):
        family, is_high = rank >> (level + 1), (rank >> level & 1).astype(np.float64)
        order = np.argsort(family, kind="stable")  # by prediction within each family
        same, ties, high, weight = family[order], tie[order], is_high[order], weights[order]
        low = weight * (1 - high)
        below = np.r_[0.0, np.cumsum(low)]
        new_family = changes(same)
        new_tie = new_family | changes(ties)
        start = np.flatnonzero(new_family)
        group = np.cumsum(new_tie) - 1
        before = below[np.flatnonzero(new_tie)][group] - below[start][np.cumsum(new_family) - 1]
        tied = np.bincount(group, low)[group]
        won += float((weight * high * (before + 0.5 * tied)).sum())
        pairs += float((np.add.reduceat(weight * high, start) * np.add.reduceat(low, start)).sum())
    return won / pairs if pairs else math.nan
