"""The caches of encoded histories, read when metrics are asked for."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector, CollectorRegistry

from recap.inference.history_cache import HistoryCache

_LABELS = ("model", "version")


class Caches(Collector):
    """Hits, misses and size of the cache of each version."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._caches: dict[tuple[str, str], HistoryCache] = {}
        registry.register(self)

    def loaded(self, model: str, version: str, cache: HistoryCache) -> None:
        """Show a cache."""
        self._caches = {**self._caches, (model, version): cache}

    def unloaded(self, model: str, version: str) -> None:
        """Forget a cache."""
        self._caches = {key: cache for key, cache in self._caches.items() if key != (model, version)}

    def describe(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """The metrics without values."""
        return self._families({})

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """The metrics now."""
        return self._families(self._caches)

    def _families(
        self, caches: dict[tuple[str, str], HistoryCache]
    ) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        hits = CounterMetricFamily("recap_history_cache_hits", "Histories that were kept from before.", labels=_LABELS)
        misses = CounterMetricFamily("recap_history_cache_misses", "Histories that were encoded.", labels=_LABELS)
        size = GaugeMetricFamily("recap_history_cache_bytes", "Memory of the kept histories.", labels=_LABELS)
        for labels, cache in caches.items():
            hits.add_metric(labels, cache.hits)
            misses.add_metric(labels, cache.misses)
            size.add_metric(labels, cache.bytes)
        yield from (hits, misses, size)
