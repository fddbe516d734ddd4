"""The final score: the metrics of its order, and real lists to try other weights on."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from recap.config.recap import RecapConfig
from recap.data.batch import Batch
from recap.distributed import Ranks
from recap.evaluation.metrics.buckets import bucket_of
from recap.evaluation.metrics.estimate import Estimate
from recap.evaluation.metrics.score import ScoreSums
from recap.evaluation.metrics.whole_lists import WholeLists
from recap.evaluation.weights.lists import MAX_ROWS, ListSample
from recap.model.scorer import Scores

_POOL_ROWS = 60_000
"""Rows of lists to draw from: at least 1,000 lists, if there are."""


def _lists(batch: Batch) -> Tensor | None:
    """[B] int64: the list of each row; None without lists and users."""
    return batch.user if batch.lists is None else batch.lists


class ScoreResult(NamedTuple):
    """The metrics of the score, see `ScoreSums`."""

    metrics: Mapping[str, float]
    estimates: Mapping[str, Estimate]
    """Those of all but the number of lists."""


class ScoreMetrics:
    """The metrics of the order that the score gives to lists, and of what each task adds to it."""

    def __init__(self, config: RecapConfig, ranks: Ranks) -> None:
        weights = torch.tensor([config.scoring.weights.get(task, 0.0) for task in config.tasks], dtype=torch.float64)
        self._sums = ScoreSums(config.tasks, weights, config.metrics.hit_at) if weights.any() else None
        self._ranks, self._rows = ranks, 0

    def update(self, batch: Batch, scores: Scores) -> None:
        if self._sums is None:
            return
        assert batch.labels is not None
        assert batch.weights is not None
        lists = _lists(batch)
        ids = [column for column in (lists, lists if batch.user is None else batch.user) if column is not None]
        columns = [scores.calibrated_probabilities, batch.labels, batch.weights, scores.score, *ids]
        gathered = self._ranks.all_gather([column.cpu() for column in columns])
        if self._ranks.is_first:
            predictions, labels, weights, score = (column.double() for column in gathered[:4])
            users = gathered[-1] if ids else self._numbers(len(score))
            self._sums.update(
                predictions, labels, weights, bucket_of(users), score, gathered[4] if lists is not None else None
            )

    def result(self) -> ScoreResult:
        """Empty if no task has a weight."""
        if self._sums is None:
            return ScoreResult({}, {})
        plain = {name: estimate.numbers for name, estimate in self._sums.estimates().items()}
        shared = self._ranks.broadcast_object(plain)
        estimates = {name: Estimate.of(numbers) for name, numbers in shared.items()}
        values = {name: estimate.value for name, estimate in estimates.items()}
        return ScoreResult(values, {name: item for name, item in estimates.items() if name != "lists"})

    def _numbers(self, rows: int) -> Tensor:
        """The numbers of the next rows: without users, each row counts as one."""
        numbers = torch.arange(self._rows, self._rows + rows)
        self._rows += rows
        return numbers


class SampledLists:
    """Some lists, each with some of its rows; see `ListSample`."""

    def __init__(self, config: RecapConfig, ranks: Ranks) -> None:
        self._config, self._ranks = config, ranks
        self._lists = WholeLists(2 * len(config.tasks), _POOL_ROWS, MAX_ROWS)

    def update(self, batch: Batch, scores: Scores) -> None:
        lists = _lists(batch)
        if lists is None:
            return
        assert batch.labels is not None
        assert batch.weights is not None
        values = torch.cat([scores.calibrated_probabilities, batch.labels * batch.weights], dim=1)
        counted = (batch.weights > 0).any(dim=1)
        values, lists = self._ranks.all_gather([values[counted].cpu(), lists[counted].cpu()])
        if self._ranks.is_first:
            self._lists.add(lists.numpy(), values.numpy())

    def result(self) -> ListSample | None:
        """None if no list is long enough, as without `features.user` and `features.request`."""
        rows, share = self._lists.rows(), self._lists.share
        config = self._config
        sample = ListSample.of(rows, config.tasks, config.scoring.weights, config.regressions, share)
        content = self._ranks.broadcast_object(sample.to_json() if len(sample.sizes) else None)
        return None if content is None else ListSample.from_json(content)
