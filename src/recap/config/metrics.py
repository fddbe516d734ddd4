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

METRIC_NAMES: tuple[str, ...] = get_args(MetricName)
"""Every metric, in the order of reports."""
