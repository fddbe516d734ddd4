"""The metrics of a server, in a Prometheus registry of its own."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics

from recap.serving.watch.distribution import Distribution

STAGES = ("decode", "queue", "encode", "model", "respond", "total")
"""Stages of a request: its bytes become a request; it waits; its columns become tensors; the forward pass; the
response becomes bytes; all of it."""
_SECONDS = (
    *(0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06, 0.08),
    *(0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0),
)
_REQUESTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128, 256)
_CANDIDATES = (1, 10, 50, 100, 200, 300, 500, 750, 1000, 1500, 2000, 3000, 4000, 6000, 10_000)
_PROBABILITY = (
    *(0.0001, 0.0003, 0.001, 0.003, 0.01, 0.02, 0.03, 0.05),
    *(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97, 0.99, 1.0),
)
_POSITIVE = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
_VALUE = (*(-value for value in reversed(_POSITIVE)), 0.0, *_POSITIVE)
_OF_VERSION = ("model", "version")


class Metrics:
    """Every metric, one attribute each. Values of labels come from the configuration and from loaded models only."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a gauge beside every counter, of no use in Prometheus
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "recap_requests",
            "Requests that were answered, by outcome (ok, failed).",
            ("model", "version", "protocol", "outcome"),
            registry=registry,
        )
        self.failures = Counter(
            "recap_request_failures", "Failed requests by reason.", ("model", "protocol", "reason"), registry=registry
        )
        self.latency = Histogram(
            "recap_latency_seconds",
            "Time of a request by stage; total: of answered requests.",
            ("stage",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.batch_requests = Histogram(
            "recap_batch_requests", "Requests per forward pass.", buckets=_REQUESTS, registry=registry
        )
        self.batch_candidates = Histogram(
            "recap_batch_candidates", "Candidates per forward pass.", buckets=_CANDIDATES, registry=registry
        )
        self.queue = Gauge("recap_queue_requests", "Requests that wait.", registry=registry)
        self.shed_requests = Counter(
            "recap_shed_requests", "Requests that were answered with fewer candidates.", ("model",), registry=registry
        )
        self.shed_candidates = Counter(
            "recap_shed_candidates", "Candidates that were shed, and so not scored.", ("model",), registry=registry
        )
        self.reloads = Counter(
            "recap_reloads",
            "New versions by result (served, refused).",
            ("model", "result"),
            registry=registry,
        )
        self.loaded = Gauge(
            "recap_version_loaded", "1 for each version that answers requests.", _OF_VERSION, registry=registry
        )
        self.non_finite = Counter(
            "recap_non_finite_predictions",
            "Candidates with a NaN or infinite prediction.",
            _OF_VERSION,
            registry=registry,
        )
        self.log_rows = Counter(
            "recap_request_log_rows",
            "Rows of the request log by result (written, dropped, failed).",
            ("result",),
            registry=registry,
        )
        self.probability = Distribution(
            "recap_probability", "Calibrated probabilities.", ("task", *_OF_VERSION), _PROBABILITY, registry
        )
        self.value = Distribution(
            "recap_regression_value", "Predicted values of regressions.", ("task", *_OF_VERSION), _VALUE, registry
        )
        self.score = Distribution("recap_score", "Scores.", _OF_VERSION, _VALUE, registry)

    def forget(self, model: str, version: str) -> None:
        """Drop the series of a version that no longer serves."""
        labels = {"model": model, "version": version}
        for metric in (self.requests, self.loaded, self.non_finite):
            metric.remove_by_labels(labels)
        for distribution in (self.probability, self.value, self.score):
            distribution.remove(labels)
