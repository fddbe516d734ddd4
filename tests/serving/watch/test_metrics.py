"""The metrics of a server, as a Prometheus server reads them."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, Metric
from prometheus_client.parser import text_string_to_metric_families
from serving.watch.requests import answer, make_request

from recap.inference.history_cache import HistoryCache
from recap.inference.requests import RequestScorer
from recap.serving.contract import RankResponse, Reason
from recap.serving.watch.distribution import Distribution
from recap.serving.watch.watch import Watch
from recap.storage import remove_file

ROOT = Path(__file__).parents[3]


def samples(watch: Watch) -> Mapping[tuple[str, frozenset[tuple[str, str]]], float]:
    families = text_string_to_metric_families(watch.exposition().decode())
    return {(sample.name, frozenset(sample.labels.items())): sample.value for f in families for sample in f.samples}


def value(watch: Watch, name: str, **labels: str) -> float | None:
    return samples(watch).get((name, frozenset(labels.items())))


@pytest.fixture
def watch(model: Path, scorer: RequestScorer) -> Any:
    with Watch() as watch:
        watch.loaded("feed", "1", model, scorer)
        yield watch


def test_requests_are_counted_by_outcome_and_failures_by_reason(watch: Watch) -> None:
    watch.request("rest", "feed", "1", None, 0.004)
    watch.request("grpc", "feed", None, Reason.DEADLINE, 1.0)
    watch.request("shadow", "feed", "1", None, 9.0)
    assert value(watch, "recap_requests_total", model="feed", version="1", protocol="rest", outcome="ok") == 1
    assert value(watch, "recap_request_failures_total", model="feed", protocol="grpc", reason="deadline") == 1
    assert value(watch, "recap_latency_seconds_bucket", stage="total", le="0.005") == 1
    assert value(watch, "recap_latency_seconds_count", stage="total") == 1, "neither shadows nor failures"


def test_names_that_clients_choose_never_become_labels(watch: Watch) -> None:
    before = len(samples(watch))
    for number in range(100):
        watch.request("rest", f"m{number}", f"v{number}", Reason.NOT_FOUND, 0.0)
        watch.request("rest", "feed", f"v{number}", Reason.NOT_FOUND, 0.0)
    assert len(samples(watch)) < before + 40
    assert "v7" not in watch.exposition().decode()


def test_predictions_are_counted_by_task_and_version(watch: Watch, scorer: RequestScorer) -> None:
    response = answer(scorer, make_request(7))
    watch.scores("feed", "1", response)
    of_version = {"model": "feed", "version": "1"}
    assert value(watch, "recap_probability_count", task="like", **of_version) == 7
    total = value(watch, "recap_probability_sum", task="like", **of_version)
    assert total == pytest.approx(response.probabilities[:, 0].sum())
    assert value(watch, "recap_score_count", **of_version) == 7
    bad = RankResponse(
        "feed", "1", ["like"], np.full((2, 1), np.nan, np.float32), np.full(2, np.nan), 2, failed=np.arange(2)
    )
    watch.scores("feed", "1", bad)
    assert value(watch, "recap_non_finite_predictions_total", **of_version) == 2
    assert value(watch, "recap_score_count", **of_version) == 7


def test_the_cache_of_histories_is_shown(watch: Watch) -> None:
    cache, of_version = HistoryCache(1 << 20), {"model": "feed", "version": "1"}
    watch.caches.loaded("feed", "1", cache)
    for _ in range(3):
        cache.recall(b"key", lambda: (torch.ones(10),))
    found = [
        value(watch, f"recap_history_cache_{name}", **of_version) for name in ("hits_total", "misses_total", "bytes")
    ]
    assert found == [2, 1, cache.bytes]


def test_an_unloaded_version_leaves_no_series(watch: Watch, scorer: RequestScorer) -> None:
    watch.request("rest", "feed", "1", None, 0.1)
    watch.scores("feed", "1", answer(scorer, make_request()))
    watch.unloaded("feed", "1")
    watch.scores("feed", "1", answer(scorer, make_request()))
    assert 'version="1"' not in watch.exposition().decode()


def test_a_model_without_statistics_is_named(model: Path, scorer: RequestScorer, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "old"
    shutil.copytree(model, copy)
    remove_file(copy, "statistics.json")
    lines: list[str] = []
    with Watch(say=lines.append) as watch:
        watch.loaded("feed", "old", copy, scorer)
        assert "recap_drift_rows{" not in watch.exposition().decode()
    assert lines == [
        "model feed, version old: has no statistics.json, as it was trained by an earlier recap; no drift is shown"
    ]


@given(st.lists(st.floats(-20, 20) | st.sampled_from([0.0, 1.0, math.inf, math.nan]), max_size=30))
def test_a_distribution_is_a_prometheus_histogram(values: list[float]) -> None:
    bounds = (-10.0, 0.0, 1.0, 5.0)
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    distribution = Distribution("x", "x", ("a",), bounds, ours)
    histogram = Histogram("x", "x", ("a",), buckets=bounds, registry=theirs)
    for part in (values[:7], values[7:]):
        distribution.observe([("1",), ("2",)], np.repeat(np.array(part, np.float64)[:, None], 2, axis=1))
    for label in ("1", "2"):
        histogram.labels(label)
    for item in values:
        if math.isfinite(item):
            histogram.labels("1").observe(item)
            histogram.labels("2").observe(item)
    buckets = [
        {(s.labels["a"], s.labels["le"]): s.value for m in registry.collect() for s in m.samples if "le" in s.labels}
        for registry in (ours, theirs)
    ]
    assert buckets[0] == buckets[1]
    totals = [s.value for m in ours.collect() for s in m.samples if s.name == "x_sum"]
    assert totals == [pytest.approx(sum(item for item in values if math.isfinite(item)))] * 2


def test_the_documentation_lists_every_metric() -> None:
    with Watch() as watch:
        families = [metric for metric in watch.metrics.registry.collect() if metric.name.startswith("recap_")]
    names = {metric.name + ("_total" if metric.type == "counter" else "") for metric in families}
    documented = re.findall(r"^\| `(recap_\w+)`", (ROOT / "docs" / "monitoring.md").read_text(), re.MULTILINE)
    assert sorted(documented) == sorted(names)


def test_the_alerts_read_metrics_that_exist() -> None:
    with Watch() as watch:
        known = {sample for metric in watch.metrics.registry.collect() for sample in _series(metric)}
    rules = yaml.safe_load((ROOT / "deploy" / "prometheus-rules.yaml").read_text())["groups"][0]["rules"]
    for rule in rules:
        read = set(re.findall(r"\brecap_\w+", rule["expr"]))
        assert read, rule["alert"]
        assert read <= known, rule["alert"]
        assert rule["expr"].count("(") == rule["expr"].count(")")


def _series(metric: Metric) -> set[str]:
    endings = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}.get(metric.type, [""])
    return {metric.name + ending for ending in endings}
