"""The metrics a run can report, by name, and the rows it reports them of."""

from typing import Annotated, Literal, get_args

from pydantic import BeforeValidator

from recap.config.base import BaseConfig, Name

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

WatchedMetric = Literal["log_loss", "ne", "rce", "nrce", "auc", "pr_auc", "grouped_auc", "mae", "rmse", "xauc"]
"""The metrics of which it is known whether more or less of them is better."""

LOWER_IS_BETTER: frozenset[WatchedMetric] = frozenset({"log_loss", "ne", "mae", "rmse"})
"""Of the others, more is better."""


def _code_or_string(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("expected a whole number or text")
    return value


class StratumConfig(BaseConfig):
    """Rows of which metrics are reported by themselves, too."""

    feature: Name
    """A discrete feature of one code a row; its embedding may be 0 wide."""
    value: Annotated[int | str, BeforeValidator(_code_or_string)]
    """The rows where it is this: a code of the data, or a string of the vocabulary."""
