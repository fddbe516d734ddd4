"""`Drift`: features and predictions of recent requests, of which some are sampled, against the training rows."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from threading import Lock
from time import monotonic

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector, CollectorRegistry

from recap.data.encoding.encoder import RowEncoder
from recap.data.formats.location import Location
from recap.data.statistics import FeatureSums, Statistics
from recap.serving.contract import RankRequest, RankResponse

_ROWS = 64
"""Candidates that are taken of a sampled request."""
_PAUSE = 0.2
"""Least seconds between samples of a version."""
_COST = 100
"""Pause after a sample, in multiples of the time that it took: at most 1% of a CPU."""
_SLOTS, _SLOT_SECONDS = 10, 60.0
"""The window: 10 to 11 minutes."""


@dataclass
class _Slot:
    """Sums over the samples of a minute."""

    started: float
    features: FeatureSums
    tasks: npt.NDArray[np.float64]  # [2, T]: number and sum of the finite predictions


@dataclass
class _Version:
    encoder: RowEncoder
    statistics: Statistics
    tasks: tuple[str, ...]
    slots: deque[_Slot] = field(default_factory=lambda: deque(maxlen=_SLOTS + 1))
    next_sample: float = 0.0


_GAUGES = {
    "drift_rows": ("Sampled rows of the last ten minutes, from which the serving means are.", ()),
    "feature_mean": ("Mean of a feature in recent requests, over the values of a list.", ("feature",)),
    "feature_training_mean": ("The same of the training rows.", ("feature",)),
    "feature_missing_share": (
        "Share of values in recent requests that are missing, not finite or, of a discrete feature, unknown.",
        ("feature",),
    ),
    "feature_training_missing_share": ("The same of the training rows.", ("feature",)),
    "feature_drift": (
        "|mean − training mean| / training deviation of a feature; of a list, the largest of its values.",
        ("feature",),
    ),
    "prediction_mean": ("Mean calibrated prediction in recent requests.", ("task",)),
    "prediction_training_mean": ("Mean label of the training rows in the population.", ("task",)),
    "prediction_drift": ("(mean − training mean) / training deviation of the label.", ("task",)),
}


class Drift(Collector):
    """Gauges of every version whose model directory has `statistics.json`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._versions: dict[tuple[str, str], _Version] = {}
        self._lock = Lock()
        registry.register(self)

    def loaded(self, model: str, version: str, encoder: RowEncoder, statistics: Statistics, tasks: list[str]) -> None:
        """Compare the requests of a version from now on."""
        with self._lock:
            self._versions[model, version] = _Version(encoder, statistics, tuple(tasks))

    def unloaded(self, model: str, version: str) -> None:
        """Forget a version."""
        with self._lock:
            self._versions.pop((model, version), None)

    def wants(self, model: str, version: str) -> bool:
        """Whether it is time for another sample of a version."""
        compared = self._versions.get((model, version))
        now = monotonic()
        if compared is None or now < compared.next_sample:
            return False
        compared.next_sample = now + _PAUSE
        return True

    def sample(self, request: RankRequest, response: RankResponse) -> None:
        """Add up to 64 candidates of a request, spread evenly; runs in the thread of the worker."""
        started = monotonic()
        compared = self._versions.get((response.model, response.version))
        if compared is None:
            return
        scored = len(response.scores)
        rows = np.unique(np.linspace(0, scored - 1, min(_ROWS, scored)).astype(np.int64))
        table = request.candidates.take(pa.array(rows))
        zeros = pa.array(np.zeros(len(rows), np.int64))
        for name in request.user.column_names:
            table = table.append_column(name, request.user[name].take(zeros))
        batch = compared.encoder.encode(table, Location("request"))
        predictions = response.probabilities[rows].astype(np.float64)
        finite = np.isfinite(predictions)
        with self._lock:
            slot = _slot(compared, started)
            slot.features.add(batch)
            slot.tasks += np.stack([finite.sum(axis=0), np.where(finite, predictions, 0.0).sum(axis=0)])
        now = monotonic()
        compared.next_sample = now + max(_PAUSE, _COST * (now - started))

    def describe(self) -> list[GaugeMetricFamily]:
        """The gauges without values."""
        return list(_families().values())

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The gauges of the window that ends now."""
        families, now = _families(), monotonic()
        with self._lock:
            for labels, version in self._versions.items():
                recent = [slot for slot in version.slots if now - slot.started < (_SLOTS + 1) * _SLOT_SECONDS]
                for name, more, value in _values(version, recent):
                    families[name].add_metric((*labels, *more), value)
        yield from families.values()


def _slot(version: _Version, now: float) -> _Slot:
    if not version.slots or now - version.slots[-1].started >= _SLOT_SECONDS:
        version.slots.append(_Slot(now, FeatureSums(version.encoder), np.zeros((2, len(version.tasks)))))
    return version.slots[-1]


def _families() -> dict[str, GaugeMetricFamily]:
    return {
        name: GaugeMetricFamily(f"recap_{name}", text, labels=("model", "version", *labels))
        for name, (text, labels) in _GAUGES.items()
    }


def _values(version: _Version, slots: list[_Slot]) -> Iterator[tuple[str, tuple[str, ...], float]]:
    """Gauge, its labels besides model and version, and its value."""
    training = version.statistics
    sums = FeatureSums(version.encoder)
    for slot in slots:
        sums += slot.features
    yield "drift_rows", (), sums.rows
    serving = sums.moments() if sums.rows else {}
    for name, before in training.features.items():
        label = (name,)
        if before.means:
            yield "feature_training_mean", label, float(np.mean(before.means))
        yield "feature_training_missing_share", label, float(np.mean(before.missing))
        if name not in serving:
            continue
        now = serving[name]
        yield "feature_missing_share", label, float(np.mean(now.missing))
        if before.means and len(now.means) == len(before.means):
            yield "feature_mean", label, float(np.mean(now.means))
            yield "feature_drift", label, _largest_difference(now.means, before.means, before.deviations)
    counts, totals = sum((slot.tasks for slot in slots), np.zeros((2, len(version.tasks))))
    for task, count, total in zip(version.tasks, counts, totals, strict=True):
        if task in training.tasks:
            mean, deviation = training.tasks[task]
            yield "prediction_training_mean", (task,), mean
            if count:
                yield "prediction_mean", (task,), total / count
                yield "prediction_drift", (task,), (total / count - mean) / max(deviation, _least(mean))
        elif count:
            yield "prediction_mean", (task,), total / count


def _largest_difference(now: tuple[float, ...], before: tuple[float, ...], deviations: tuple[float, ...]) -> float:
    means = np.array(before)
    scale = np.maximum(np.array(deviations), np.maximum(np.abs(means) * 1e-6, 1e-12))
    return float(np.max(np.abs(np.array(now) - means) / scale))


def _least(mean: float) -> float:
    """A deviation below rounding counts as this much."""
    return max(abs(mean) * 1e-6, 1e-12)
