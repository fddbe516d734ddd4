"""The metrics a run can report, by name."""

from typing import Literal, get_args

BinaryMetricName = Literal[
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

RegressionMetricName = Literal["count", "mean_label", "mean_prediction", "mae", "rmse", "xauc", "xauc_bound"]

MetricName = Literal[BinaryMetricName, RegressionMetricName]

BINARY_METRICS: tuple[str, ...] = get_args(BinaryMetricName)
"""Those of tasks that predict whether something happens, in the order of reports."""
REGRESSION_METRICS: tuple[str, ...] = get_args(RegressionMetricName)
"""Those of tasks that predict how much of it, in the order of reports."""
METRIC_NAMES: tuple[str, ...] = get_args(MetricName)
"""Every metric, each once."""
