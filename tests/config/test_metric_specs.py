"""The table of metrics, and what is made from it."""

import math
import re
from pathlib import Path

import pytest

from recap.config.evaluation.metrics import (
    BINARY_METRICS,
    GROUPED_METRICS,
    METRICS,
    REGRESSION_METRICS,
    MetricSpec,
    format_metric,
    metrics_table,
    spec_of,
)
from recap.published.form.config import METRIC_ALIASES

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("spec", METRICS, ids=lambda spec: spec.name)
def test_the_facts_of_a_metric_are_complete(spec: MetricSpec) -> None:
    assert spec.of
    assert spec.range[0] < spec.range[1]
    assert "\n" not in spec.definition
    assert "|" not in spec.definition
    assert set(spec.column_of) <= set(spec.of)
    assert format(0.5, spec.format)
    assert spec.title


def test_names_are_unique_and_aliases_name_one_metric() -> None:
    names = [spec.name for spec in METRICS]
    assert len(set(names)) == len(names)
    aliases = [alias for spec in METRICS for alias in spec.aliases]
    assert len({*aliases, *names}) == len(aliases) + len(names)
    assert METRIC_ALIASES["roc_auc"] == "auc"
    assert METRIC_ALIASES["hit_at_k"] == "hit_at"
    assert METRIC_ALIASES.keys().isdisjoint({"mae", "xauc"})


def test_reports_are_in_the_order_of_the_table() -> None:
    assert BINARY_METRICS[:4] == ("count", "positives", "ctr", "pctr")
    assert BINARY_METRICS[-5:] == GROUPED_METRICS
    assert GROUPED_METRICS == ("grouped_auc", "positive_rank", "reciprocal_rank", "hit_at", "ndcg_at")
    assert REGRESSION_METRICS == ("count", "mean_label", "mean_prediction", "mae", "rmse", "xauc")


def test_a_metric_at_a_rank_is_found_by_the_name_it_is_reported_under() -> None:
    hit_at = spec_of("hit_at")
    assert hit_at is not None
    assert spec_of(hit_at.at(3)) is hit_at
    assert spec_of("auc_3") is None
    assert spec_of("like") is None


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("count", 12345.0, "12,345"),
        ("mae", 1234.5678, "1234.6"),
        ("rce", 12.345, "12.35"),
        ("log_loss", 0.123456, "0.12346"),
        ("auc", 0.71234, "0.7123"),
        ("hit_at_3", 0.5, "0.5000"),
        ("auc", math.nan, "-"),
    ],
)
def test_values_are_shown_with_sensible_digits(name: str, value: float, expected: str) -> None:
    assert format_metric(name, value) == expected


def test_the_tables_of_the_docs_are_those_of_the_specs() -> None:
    tables = re.findall(r"(?:^\|.*\n)+", (DOCS / "metrics.md").read_text(), re.MULTILINE)
    metrics = [table.rstrip("\n") for table in tables if table.startswith("| name |")]
    assert metrics == [metrics_table("binary"), metrics_table("regression")]
