"""Metrics of lists of rows ordered by prediction: AUC within lists, ranks of positives, hits and NDCG.

A list holds the rows of a user, of a request, or of a user and day (`metrics.lists`). All metrics are ratios of sums
over lists. Of a sample they are estimates, weighted by the inverse of the chance with which a list and its rows were
sampled (Horvitz and Thompson, JASA 1952), and come with bounds of `DEVIATIONS` standard errors.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recap.config.evaluation.metrics import SPECS, bound_of
from recap.evaluation.metrics.buckets import Totals
from recap.evaluation.metrics.list_rows import ListRows, RankedLists
from recap.evaluation.metrics.ranking import auc_variance
from recap.evaluation.metrics.rows import Floats

DEVIATIONS = 3.0
"""Standard errors that make a bound: of 1,000 samples, 3 exceed it."""
_ROUNDING = 1e-6
"""Ranks are sums of weights; a rank counts as at most k up to this much above it."""


@dataclass(frozen=True)
class ListMetrics:
    """grouped_auc, positive_rank, reciprocal_rank, hit_at_k and ndcg_at_k of the lists of each task.

    A list holds its rows with a weight above 0, the highest prediction first. The rank of a row is 1, plus the weight
    of the rows above it, plus half the weight of other rows with the same prediction: its mean rank over all orders of
    a tie, in a list where a row of weight w stands for w rows.

    - grouped_auc: the mean AUC of lists, weighted by their rows (Zhou et al., KDD 2018, arXiv:1706.06978). NaN where no
      list has both labels. The others are NaN without positives.
    - positive_rank: the weighted mean rank of positives.
    - Over lists with a positive, each counted once; of a sample, over the lists that are there whole:
      reciprocal_rank, the mean of 1 / the best rank of a positive; hit_at_k, the share whose best rank is at most k;
      ndcg_at_k, the mean of DCG@k over the best possible DCG@k, with the label as gain and the discount
      1 / log2(1 + rank) (Järvelin & Kekäläinen, TOIS 2002), the mean over all orders of a tie (McSherry & Najork, ECIR
      2008).
    """

    hit_at: Sequence[int]
    ndcg_at: Sequence[int]

    @property
    def _of_lists(self) -> list[str]:
        """The metrics in which each list counts once."""
        return ["reciprocal_rank", *map(SPECS["hit_at"].at, self.hit_at), *map(SPECS["ndcg_at"].at, self.ndcg_at)]

    @property
    def names(self) -> list[str]:
        """The metrics, as reported."""
        return ["grouped_auc", "positive_rank", *self._of_lists]

    def totals(self, rows: ListRows, groups: int = 1) -> dict[str, Tensor]:
        """Sum → [groups, T] float64, over the lists of each bucket."""
        sums = {name: np.zeros((groups, rows.tasks)) for name in (*self.names, "auc_weight", "rank_weight", "lists")}
        for task in range(rows.tasks):
            lists = rows.of_task(task)
            for name, values in self._sums(lists).items():
                sums[name][:, task] = np.bincount(lists.buckets, values, minlength=groups)
        return {name: torch.from_numpy(total) for name, total in sums.items()}

    def compute(self, totals: Totals) -> dict[str, Tensor]:
        """Metric → [*leading, T] from sums [*leading, T]."""
        means = {name: totals[name] / totals["lists"] for name in self._of_lists}
        return {
            "grouped_auc": totals["grouped_auc"] / totals["auc_weight"],
            "positive_rank": totals["positive_rank"] / totals["rank_weight"],
            **means,
        }

    def bounds(self, rows: ListRows, task: int, values: dict[str, float]) -> dict[str, float]:
        """The bounds of the metrics of one task in a sample, around their `values`; {} if `rows` are all rows."""
        if rows.sampling is None:
            return {}
        lists = rows.of_task(task)
        by_list = self._by_list(lists)
        bounds = [_auc_bound(lists, values["grouped_auc"]), _rank_bound(lists, values["positive_rank"])]
        bounds += [_mean_bound(by_list[name][lists.whole], rows.sampling.limit) for name in self._of_lists]
        return dict(zip(map(bound_of, self.names), bounds, strict=True))

    def _sums(self, lists: RankedLists) -> dict[str, Floats]:
        """What each list adds to the sums, [L] each."""
        auc_weights = lists.auc_weights / lists.chances
        ranks = lists.weights * lists.ranks
        whole = lists.whole.astype(np.float64)
        return {
            "grouped_auc": lists.areas * auc_weights,
            "auc_weight": auc_weights,
            "positive_rank": lists.sum(ranks) / lists.chances,
            "rank_weight": lists.positives / lists.chances,
            "lists": whole,
            **{name: values * whole for name, values in self._by_list(lists).items()},
        }

    def _by_list(self, lists: RankedLists) -> dict[str, Floats]:
        """The metrics in which each list counts once, [L] each."""
        first = lists.first_ranks
        hits = [(first <= k + _ROUNDING).astype(np.float64) for k in self.hit_at]
        gains = [_ndcg(lists, k) for k in self.ndcg_at]
        return dict(zip(self._of_lists, [1 / first, *hits, *gains], strict=True))


def cumulative_discount(ranks: Floats, limit: int) -> Floats:
    """Σ 1 / log2(1 + r) over ranks r up to min(`ranks`, `limit`); linear between whole ranks."""
    whole = np.arange(limit + 1)
    sums = np.cumsum(np.r_[0.0, 1 / np.log2(1 + whole[1:])])
    discounts: Floats = np.interp(ranks, whole, sums)
    return discounts


def _ndcg(lists: RankedLists, limit: int) -> Floats:
    """NDCG@limit of each list [L]: a tie takes the mean discount of its places."""
    discounts = cumulative_discount(lists.above + lists.tied, limit) - cumulative_discount(lists.above, limit)
    return lists.sum(lists.weights / lists.tied * discounts) / cumulative_discount(lists.positives, limit)


def _auc_bound(lists: RankedLists, value: float) -> float:
    both = lists.auc_weights > 0
    if not both.any():
        return float("nan")
    areas, weights = lists.areas[both], (lists.auc_weights / lists.chances)[both]
    within = (1 - lists.shares[both]) * auc_variance(areas, lists.positive_rows[both], lists.negative_rows[both])
    variance = ((1 - lists.chances[both]) * (areas - value) ** 2 + within) * weights**2
    return float(DEVIATIONS * np.sqrt(variance.sum()) / weights.sum())


def _rank_bound(lists: RankedLists, value: float) -> float:
    """The bound of a mean rank: its lists were sampled, and in thinned lists the rows too."""
    weights = lists.weights / lists.chances[lists.owners]
    if not len(weights):
        return float("nan")
    missing = 1 - lists.shares[lists.owners]
    deviations = lists.ranks - value
    noise = np.sqrt(missing * (lists.weights * (lists.ranks - 1)))  # the standard error of a rank in a thinned list
    of_lists = lists.sum(np.sqrt(1 - lists.chances)[lists.owners] * weights * deviations) ** 2
    of_ranks = lists.sum(weights * noise) ** 2
    of_rows = missing * (weights * deviations) ** 2
    return float(DEVIATIONS * np.sqrt(of_lists.sum() + of_ranks.sum() + of_rows.sum()) / weights.sum())


def _mean_bound(values: Floats, share: float) -> float:
    """The bound of a mean in [0, 1] over a `share` of all lists."""
    if not len(values):
        return float("nan")
    return float(DEVIATIONS * (np.sqrt((1 - share) * values.var() / len(values)) + 1 / len(values)))
