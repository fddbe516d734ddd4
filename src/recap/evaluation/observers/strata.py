"""The metrics of strata: rows selected by the values of a feature, or by time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, assert_never

import torch
from torch import Tensor

from recap.config.evaluation.strata import (
    HoursStratum,
    PeriodStratum,
    QuantileStratum,
    RangeStratum,
    StratumConfig,
    ValueStratum,
    milliseconds_of,
)
from recap.config.features import FeaturesConfig
from recap.config.recap import RecapConfig
from recap.data.batch import Batch
from recap.data.encoding.assets import Assets, code_of, discrete_columns, numeric_columns
from recap.data.sample import sampled_batches
from recap.data.stream.source import Source
from recap.distributed import Ranks
from recap.evaluation.observers.metrics import Metrics
from recap.evaluation.result import TaskMetrics
from recap.model.scorer import Scores

Selection = Callable[[Batch], Tensor]
"""The rows of a stratum in a batch: [B] bool."""
_HOUR = 3_600_000
"""Milliseconds."""


class Strata:
    """The metrics of each stratum of a configuration."""

    def __init__(self, config: RecapConfig, split: str, assets: Assets, ranks: Ranks, source: Source) -> None:
        """`source`: that of the split, whose sample has the quantiles. Raises DataError as `check_strata`."""
        by_quantile = any(isinstance(stratum, QuantileStratum) for stratum in config.strata.values())
        sample = sampled_batches(source) if by_quantile else []
        self._selections = {
            name: _selection(stratum, config, assets, sample) for name, stratum in config.strata.items()
        }
        self._metrics = {name: Metrics(config, split, ranks) for name in config.strata}

    def update(self, batch: Batch, scores: Scores) -> None:
        unread: dict[str, Any] = {"vectors": {}, "histories": {}}  # which need not be copied
        for name, metrics in self._metrics.items():
            index = self._selections[name](batch).nonzero()[:, 0]
            metrics.add(replace(batch, **unread).rows(index), scores.calibrated_probabilities[index])

    def result(self) -> Mapping[str, TaskMetrics]:
        """Stratum → task → metric → value."""
        return {name: metrics.result() for name, metrics in self._metrics.items()}


def check_strata(config: RecapConfig, assets: Assets) -> None:
    """Raise DataError if a stratum selects a string that is not in the vocabulary of its feature."""
    for stratum in config.strata.values():
        _selection(stratum, config, assets, [])


def _selection(stratum: StratumConfig, config: RecapConfig, assets: Assets, sample: Sequence[Batch]) -> Selection:
    features = config.features
    match stratum:
        case ValueStratum() if stratum.feature in features.discrete:
            column = discrete_columns(features)[stratum.feature].start
            code = code_of(stratum.feature, stratum.value, features, assets)
            return lambda batch: batch.discrete[:, column] == code
        case ValueStratum():
            column, value = _position(stratum.feature, features, assets), int(stratum.value)
            return lambda batch: batch.binary[:, column] == value
        case RangeStratum():
            column = _position(stratum.feature, features, assets)
            return _between(column, stratum.at_least, stratum.below)
        case QuantileStratum():
            column = _position(stratum.feature, features, assets)
            return _between(column, *_quantiles(sample, column, stratum.quantiles))
        case PeriodStratum():
            since, before = (
                None if time is None else milliseconds_of(time) for time in (stratum.since, stratum.before)
            )
            return lambda batch: _in_range(_times(batch), since, before)
        case HoursStratum():
            first, last = stratum.hours
            hours = (last - first) % 24
            return lambda batch: (_times(batch) // _HOUR - first) % 24 < hours
        case _:
            assert_never(stratum)


def _position(feature: str, features: FeaturesConfig, assets: Assets) -> int:
    """The first value of a numeric feature in its tensor of `Batch`."""
    return next(positions.start for column, _, positions in numeric_columns(features, assets) if column.name == feature)


def _between(column: int, low: float | None, high: float | None) -> Selection:
    return lambda batch: _in_range(batch.continuous[:, column].float(), low, high)


def _in_range(values: Tensor, low: float | None, high: float | None) -> Tensor:
    """Where values are at least `low` and below `high`; NaN is in no range."""
    selected = ~values.isnan()
    if low is not None:
        selected &= values >= low
    return selected if high is None else selected & (values < high)


def _quantiles(sample: Sequence[Batch], column: int, quantiles: Sequence[float]) -> tuple[float | None, float | None]:
    """The values at two quantiles; None at 0 and 1, beyond which the sample has no values. NaN without values."""
    values = torch.cat([batch.continuous[:, column] for batch in sample]) if sample else torch.zeros(0)
    values = values[values.isfinite()].double().sort().values
    bounds = [_at(values, quantile) for quantile in quantiles]
    return None if quantiles[0] == 0 else bounds[0], None if quantiles[1] == 1 else bounds[1]


def _at(values: Tensor, quantile: float) -> float:
    """The first of the ascending `values` [N] that at least this share of them is below or equal to."""
    if not len(values):
        return float("nan")
    return values[min(int(quantile * len(values)), len(values) - 1)].item()


def _times(batch: Batch) -> Tensor:
    assert batch.times is not None
    return batch.times
