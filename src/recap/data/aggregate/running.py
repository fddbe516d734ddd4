"""The mean of each label over all impressions, as it was known at the start of each hour."""

from collections import Counter
from collections.abc import Iterable
from typing import Self

import numpy as np
import pyarrow as pa

from recap.config.aggregates.spec import AggregatesConfig, RateConfig
from recap.data.aggregate.log import Floats, Integers, LogRows
from recap.data.tools.times import HOUR

_SCHEMA = pa.schema([("label", pa.string()), ("hour", pa.int64()), ("sum", pa.float64()), ("known", pa.int64())])


def running_labels(spec: AggregatesConfig) -> list[str]:
    """The labels whose prior is their running mean."""
    rates = [aggregate for aggregate in spec.aggregates if isinstance(aggregate, RateConfig)]
    return list(dict.fromkeys(label for rate in rates for label, prior in rate.priors.items() if prior == "running"))


class RunningMeans:
    """Sums and numbers of labels by hour, to which rows are added; then the means up to any hour."""

    def __init__(self, labels: Iterable[str]) -> None:
        self._sums: dict[str, Counter[int]] = {label: Counter() for label in labels}
        self._known: dict[str, Counter[int]] = {label: Counter() for label in labels}
        self._totals: dict[str, tuple[Integers, Floats, Floats]] = {}

    def add(self, rows: LogRows) -> None:
        """Add rows of the log."""
        for label, sums in self._sums.items():
            values = rows.labels[label]
            known = ~np.isnan(values)
            hours, positions = np.unique(rows.times[known] // HOUR, return_inverse=True)
            for hour, total in zip(hours.tolist(), np.bincount(positions, values[known]).tolist(), strict=True):
                sums[hour] += total
            self._known[label].update(dict(zip(hours.tolist(), np.bincount(positions).tolist(), strict=True)))

    def at(self, label: str, times: Integers) -> Floats:
        """[Q] the mean of all rows before the hour of each time; NaN before the first."""
        if label not in self._totals:
            hours = np.array(sorted(self._known[label]), np.int64)
            sums, known = (
                np.cumsum([0.0, *(counts[label][hour] for hour in hours.tolist())])
                for counts in (self._sums, self._known)
            )
            self._totals[label] = hours, sums, known
        hours, sums, known = self._totals[label]
        before = np.searchsorted(hours, times // HOUR)
        with np.errstate(invalid="ignore"):
            means: Floats = sums[before] / known[before]
        return means

    def to_table(self) -> pa.Table:
        """One row a label and hour."""
        rows = [
            {"label": label, "hour": hour, "sum": self._sums[label][hour], "known": known}
            for label, counts in self._known.items()
            for hour, known in sorted(counts.items())
        ]
        return pa.Table.from_pylist(rows, _SCHEMA)

    @classmethod
    def from_table(cls, labels: Iterable[str], table: pa.Table) -> Self:
        """The means of `to_table`."""
        means = cls(labels)
        for row in table.to_pylist():
            means._sums[row["label"]][row["hour"]] = row["sum"]
            means._known[row["label"]][row["hour"]] = row["known"]
        return means
