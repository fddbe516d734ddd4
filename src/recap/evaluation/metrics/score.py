"""The metrics of the final score: how good its order of each list is, and what each task adds to it.

The engagement of a row is Σ wₜ·ωₜ·yₜ over the tasks: the weight of the task in the score, the weight of the row and
its label. It is negative where a row was reported, say. A list is the rows of one user, or of one request, with
a positive weight; lists of one row have no order, so they are left out. Rows of equal score share their ranks: each
has the mean engagement of them all.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from recap.evaluation.metrics.buckets import BUCKETS, Totals, replicates, values
from recap.evaluation.metrics.estimate import Estimate
from recap.evaluation.metrics.rows import MAX_ROWS, Floats, changes, ranks_in_lists
from recap.evaluation.metrics.whole_lists import WholeLists

MIN_LISTS = 20
"""Lists of more than k rows without which `uplift_k` is undefined."""


class ScoreSums:
    """Metrics of the order that the score gives to lists:

    - `lists`: their number, of at least 2 rows.
    - `ndcg`, 0 to 1: mean over lists with a positive engagement of DCG / the DCG of the best order. DCG is
      Σ max(engagement, 0) / log₂(place + 1) (Järvelin and Kekäläinen, TOIS 2002); harm is not in it.
    - `engagement_k`: mean engagement of the first k rows of lists, harm included; `best_k` and `random_k`: the same in
      the best order, and in a random one.
    - `uplift_k`, at most 1: (engagement − random) / (best − random), the share of what ordering can gain; 0 as a
      random order, below 0 worse than it. Only lists of more than k rows count, since others add 0 to both differences:
      their first k rows are all their rows, in any order. NaN with fewer than 20 such lists, which chance would decide.

    and of each task: `contribution/TASK`, the mean of |w·p| over all rows, and `share/TASK`, its share of the sum over
    tasks. NaN where undefined. Lists beyond `max_rows` rows are drawn, whole.
    """

    def __init__(self, tasks: Sequence[str], weights: Tensor, hit_at: Sequence[int], max_rows: int = MAX_ROWS) -> None:
        """`weights`: [T] float64, of the tasks in the score. `hit_at`: the ranks k."""
        self.tasks, self.weights, self.hit_at = list(tasks), weights, list(hit_at)
        self._contributions = torch.zeros(BUCKETS, len(self.tasks), dtype=torch.float64)
        self._rows = torch.zeros(BUCKETS, dtype=torch.float64)
        self._lists = WholeLists(3, max_rows)
        self.has_lists = False

    def update(
        self,
        predictions: Tensor,
        labels: Tensor,
        weights: Tensor,
        buckets: Tensor,
        score: Tensor,
        lists: Tensor | None = None,
    ) -> None:
        """Add rows: [B, T] float64 each, buckets [B] int64, score [B] float64, ids of lists [B] int64, if there are."""
        counted = (weights * (self.weights != 0) > 0).any(dim=1)
        if not counted.all():
            chosen = [column[counted] for column in (predictions, labels, weights, buckets, score)]
            predictions, labels, weights, buckets, score = chosen
            lists = None if lists is None else lists[counted]
        self._contributions.index_add_(0, buckets, (predictions * self.weights).abs())
        self._rows += torch.bincount(buckets, minlength=BUCKETS)
        if lists is not None:
            self.has_lists = True
            engagement = (labels * weights) @ self.weights
            self._lists.add(lists.numpy(), torch.stack([score, engagement, buckets.double()], dim=1).numpy())

    def merge(self, other: "ScoreSums") -> None:
        """Add the rows of `other`."""
        self._contributions += other._contributions
        self._rows += other._rows
        self._lists.merge(other._lists)
        self.has_lists |= other.has_lists

    def totals(self) -> Totals:
        """The sums of each bucket: [BUCKETS, T] of contributions, else [BUCKETS]; of lists only if there are any."""
        totals = {"rows": self._rows, "contribution": self._contributions}
        return totals | self._list_totals() if self.has_lists else totals

    def compute(self, totals: Totals) -> dict[str, Tensor]:
        """Metric → [*leading] float64, from sums with the same leading axes."""
        metrics: dict[str, Tensor] = {}
        if "lists" in totals:
            metrics |= {"lists": totals["lists"], "ndcg": totals["ndcg"] / totals["ndcg_lists"]}
            for k in self.hit_at:
                engagement, best, random = (
                    totals[f"{name}_{k}"] / totals[f"shown_{k}"] for name in ("engagement", "best", "random")
                )
                defined = (totals[f"longer_{k}"] >= MIN_LISTS) & (best > random)
                uplift = torch.where(defined, (engagement - random) / (best - random), torch.nan)
                at_rank = {"engagement": engagement, "best": best, "random": random, "uplift": uplift}
                metrics |= {f"{name}_{k}": value for name, value in at_rank.items()}
        contributions = totals["contribution"] / totals["rows"][..., None]
        shares = contributions / contributions.sum(dim=-1, keepdim=True)
        for index, task in enumerate(self.tasks):
            if self.weights[index] != 0:
                metrics |= {f"contribution/{task}": contributions[..., index], f"share/{task}": shares[..., index]}
        return metrics

    def estimates(self) -> dict[str, Estimate]:
        """Metric → its value, and the value without each bucket that has rows."""
        totals = self.totals()
        without, occupied = replicates(self, totals), self._rows > 0
        return {
            name: Estimate(value.item(), without[name][occupied].numpy())
            for name, value in values(self, totals).items()
        }

    def _list_totals(self) -> dict[str, Tensor]:
        draws, columns = self._lists.rows()
        score, engagement, bucket = columns.astype(np.float64).T
        order = np.lexsort((-score, draws))
        draws, score, engagement, bucket = draws[order], score[order], engagement[order], bucket[order].astype(np.intp)
        starts = np.flatnonzero(changes(draws))
        sizes = np.diff(starts, append=len(draws))
        long = np.repeat(sizes > 1, sizes)
        draws, score, engagement, bucket = draws[long], score[long], engagement[long], bucket[long]
        new_list = changes(draws)
        starts, sizes = np.flatnonzero(new_list), sizes[sizes > 1]
        number, ranks = np.cumsum(new_list) - 1, ranks_in_lists(starts, len(draws))
        bucket_of_list = bucket[starts]

        def by_list(column: Floats) -> Floats:
            return np.bincount(number, column, minlength=len(starts)).astype(np.float64)

        def by_bucket(column: Floats) -> Tensor:
            return torch.from_numpy(np.bincount(bucket_of_list, column, minlength=BUCKETS).astype(np.float64))

        tie = np.cumsum(new_list | changes(score)) - 1
        in_tie = np.bincount(tie)
        best = engagement[np.lexsort((-engagement, draws))]
        discount = 1 / np.log2(ranks + 2.0)
        gains = np.maximum(engagement, 0)
        most = by_list(np.maximum(best, 0) * discount)
        dcg = by_list((np.bincount(tie, gains) / in_tie)[tie] * discount)
        useful = most > 0
        ndcg = np.divide(dcg, most, out=np.zeros(len(most)), where=useful)
        totals = {"lists": by_bucket(np.ones(len(starts))), "ndcg": by_bucket(ndcg)}
        totals["ndcg_lists"] = by_bucket(useful.astype(np.float64))
        shared = (np.bincount(tie, engagement) / in_tie)[tie]
        mean = by_list(engagement) / np.maximum(sizes, 1)
        for k in self.hit_at:
            first, shown = ranks < k, np.minimum(sizes, k).astype(np.float64)
            totals[f"shown_{k}"] = by_bucket(shown)
            totals[f"longer_{k}"] = by_bucket((sizes > k).astype(np.float64))
            totals[f"engagement_{k}"] = by_bucket(by_list(shared * first))
            totals[f"best_{k}"] = by_bucket(by_list(best * first))
            totals[f"random_{k}"] = by_bucket(shown * mean)
        return totals
