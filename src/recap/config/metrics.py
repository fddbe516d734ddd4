"""The metrics a run can report, by name."""

from typing import Literal, get_args

MetricName = Literal[
    "count",
    "positives",
    "ctr",
    "pctr",
    "calibration",
    "log_loss",
    "ne",
    "rce",
    "nrce",
    "auc",
    "auc_se",
    "auc_bound",
    "pr_auc",
    "grouped_auc",
]

WatchedMetric = Literal["log_loss", "ne", "rce", "nrce", "auc", "pr_auc", "grouped_auc"]
"""The metrics of which it is known whether more or less of them is better."""

LOWER_IS_BETTER: frozenset[WatchedMetric] = frozenset({"log_loss", "ne"})
"""Of the others, more is better."""

METRIC_NAMES: tuple[str, ...] = get_args(MetricName)
"""Every metric, in the order of reports."""
