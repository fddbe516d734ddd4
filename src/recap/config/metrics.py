"""The metrics a run can report, by name, and the rows it reports them of."""

from typing import Annotated, Literal, get_args

from pydantic import BeforeValidator, Field

from recap.config.base import BaseConfig, Name, PositiveInt, Problems

BinaryMetricName = Literal[
    "count",
    "positives",
    "ctr",
    "pctr",
    "calibration",
    "precision",
    "recall",
    "log_loss",
    "ne",
    "rce",
    "nrce",
    "auc",
    "auc_se",
    "auc_bound",
    "pr_auc",
    "grouped_auc",
    "positive_rank",
    "reciprocal_rank",
    "hit_at",
]

RegressionMetricName = Literal["count", "mean_label", "mean_prediction", "mae", "rmse", "xauc", "xauc_bound"]

MetricName = Literal[BinaryMetricName, RegressionMetricName]

BINARY_METRICS: tuple[str, ...] = get_args(BinaryMetricName)
"""Those of tasks that predict whether something happens, in the order of reports."""
REGRESSION_METRICS: tuple[str, ...] = get_args(RegressionMetricName)
"""Those of tasks that predict how much of it, in the order of reports."""
METRIC_NAMES: tuple[str, ...] = get_args(MetricName)
"""Every metric, each once."""

WatchedMetric = Literal[
    "log_loss",
    "ne",
    "rce",
    "nrce",
    "auc",
    "pr_auc",
    "grouped_auc",
    "precision",
    "recall",
    "positive_rank",
    "reciprocal_rank",
    "mae",
    "rmse",
    "xauc",
]
"""The metrics of which it is known whether more or less of them is better."""

LOWER_IS_BETTER: frozenset[WatchedMetric] = frozenset({"log_loss", "ne", "positive_rank", "mae", "rmse"})
"""Of the others, more is better."""

GROUPED_METRICS = ("grouped_auc", "positive_rank", "reciprocal_rank", "hit_at")
"""Those of each user's rows by themselves, which need `features.user`."""


class MetricsConfig(BaseConfig):
    """What some metrics need to know besides the rows."""

    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """`precision` and `recall` take a row for positive where its calibrated probability is this or more."""
    hit_at: Annotated[list[PositiveInt], Field(min_length=1)] = [1, 3, 10]
    """Ranks k of `hit_at`, rising; each is reported as `hit_at_k`."""

    def checks(self) -> tuple[Problems, ...]:
        """Ranks that do not rise."""
        return (self._ranks_rise(),)

    def _ranks_rise(self) -> Problems:
        if self.hit_at != sorted(set(self.hit_at)):
            yield ("hit_at",), f"must rise, found {self.hit_at}"


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
