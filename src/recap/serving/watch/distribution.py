"""A Prometheus histogram that takes whole arrays: the predictions of a request are hundreds of values."""

from collections.abc import Iterator, Mapping, Sequence
from threading import Lock

import numpy as np
import numpy.typing as npt
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector, CollectorRegistry


class Distribution(Collector):
    """Counts finite values by bucket; one series per tuple of label values."""

    def __init__(
        self, name: str, help_: str, labels: Sequence[str], bounds: Sequence[float], registry: CollectorRegistry
    ) -> None:
        """`bounds`: the upper ends of all buckets but the last, ascending; a value belongs to the first that it does
        not exceed."""
        self.name, self.help, self.labels = name, help_, labels
        self._bounds = np.asarray(bounds, np.float64)
        self._counts: dict[tuple[str, ...], npt.NDArray[np.int64]] = {}
        self._sums: dict[tuple[str, ...], float] = {}
        self._lock = Lock()
        registry.register(self)

    def observe(self, series: Sequence[tuple[str, ...]], values: npt.NDArray[np.floating]) -> None:
        """Count the finite ones of `values` [N, K], a column for each of K tuples of label values."""
        finite = np.isfinite(values)
        values = np.where(finite, values, 0.0)
        size = len(self._bounds) + 2  # the last one takes what is not finite
        buckets = np.where(finite, np.searchsorted(self._bounds, values, side="left"), size - 1)
        buckets += np.arange(len(series)) * size
        counts = np.bincount(buckets.reshape(-1), minlength=len(series) * size).reshape(len(series), size)[:, :-1]
        sums = values.sum(axis=0, dtype=np.float64).tolist()
        with self._lock:
            for labels, count, total in zip(series, counts, sums, strict=True):
                self._counts[labels] = self._counts.get(labels, 0) + count
                self._sums[labels] = self._sums.get(labels, 0.0) + total

    def remove(self, labels: Mapping[str, str]) -> None:
        """Forget the series whose labels have these values."""
        wanted = {self.labels.index(name): value for name, value in labels.items()}
        with self._lock:
            for key in list(self._counts):
                if all(key[index] == value for index, value in wanted.items()):
                    del self._counts[key], self._sums[key]

    def describe(self) -> list[HistogramMetricFamily]:
        """The metric without series, from which the registry takes its names."""
        return [HistogramMetricFamily(self.name, self.help, labels=self.labels)]

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """The metric with all series."""
        family = HistogramMetricFamily(self.name, self.help, labels=self.labels)
        with self._lock:
            series = [(labels, counts.cumsum(), self._sums[labels]) for labels, counts in self._counts.items()]
        ends = [*map(repr, self._bounds.tolist()), "+Inf"]
        for labels, totals, total in series:
            family.add_metric(labels, [*zip(ends, map(float, totals), strict=True)], None)
            # `add_metric` leaves out sum and count where buckets are negative; the count is of use nonetheless.
            family.add_sample(f"{self.name}_count", dict(zip(self.labels, labels, strict=True)), float(totals[-1]))
            family.add_sample(f"{self.name}_sum", dict(zip(self.labels, labels, strict=True)), total)
        yield family
