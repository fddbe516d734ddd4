"""The metrics of a run, with every fact about them.

The names that a configuration accepts, the columns and digits of terminal tables, the published aliases and the tables
of docs/metrics.md come from `METRICS`.
"""

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from recap.config.base import BaseConfig, Check, PositiveInt, Problems

TaskKind = Literal["binary", "regression"]
"""What a task predicts: a probability, or a number."""


@dataclass(frozen=True)
class MetricSpec:
    """The facts about one metric."""

    name: str
    of: tuple[TaskKind, ...]
    """The kinds of task that have it."""
    definition: str
    """One line of Markdown: formula, edge cases, source."""
    range: tuple[float, float] = (0, 1)
    """The lowest and the highest possible value."""
    better: Literal["higher", "lower"] | None = None
    """None where neither is better."""
    needs: Literal["user"] | None = None
    """`user`: it ranks the rows of each user, so `features.user` must be set."""
    at_ranks: bool = False
    """Whether it has a value for each rank k of `metrics.hit_at`, reported as `NAME_k`."""
    aliases: tuple[str, ...] = ()
    """Other names in the published form, in lower case with underscores."""
    label: str = ""
    """Its name in prose; default: the name with spaces."""
    format: str = ".4f"
    """Format specification for a person."""
    column_of: tuple[TaskKind, ...] = ()
    """The kinds of task whose terminal tables have it as a column."""
    column_rank: int = 0
    """A narrow terminal drops columns of the highest rank first, and never those of rank 0."""
    headline: bool = False
    """Whether the one-line summary of an evaluation shows it."""

    @property
    def title(self) -> str:
        """Its name in prose."""
        return self.label or self.name.replace("_", " ")

    def at(self, rank: int) -> str:
        """The name of its value at a rank."""
        return f"{self.name}_{rank}"


_BINARY: tuple[TaskKind, ...] = ("binary",)
_REGRESSION: tuple[TaskKind, ...] = ("regression",)
_COUNT = (0, math.inf)
_VALUE = (-math.inf, math.inf)
_ERROR = (0, math.inf)

METRICS = (
    MetricSpec(
        "count",
        (*_BINARY, *_REGRESSION),
        "rows with a weight above 0",
        _COUNT,
        format=",.0f",
        column_of=_REGRESSION,
    ),
    MetricSpec(
        "positives", _BINARY, "the positives among these rows", _COUNT, format=",.0f", column_of=_BINARY, column_rank=4
    ),
    MetricSpec(
        "ctr", _BINARY, "Σ wy / Σ w, the mean label", label="CTR", format=".5f", column_of=_BINARY, column_rank=1
    ),
    MetricSpec("pctr", _BINARY, "Σ wp / Σ w, the mean prediction", label="PCTR", format=".5f"),
    MetricSpec("calibration", _BINARY, "pctr / ctr; 1 is best", (0, math.inf), column_of=_BINARY),
    MetricSpec(
        "precision", _BINARY, "share of positives among the rows with p ≥ `metrics.threshold` (0.5)", better="higher"
    ),
    MetricSpec("recall", _BINARY, "share of all positives that these rows contain", better="higher"),
    MetricSpec(
        "log_loss",
        _BINARY,
        "cross entropy −Σ w(y·ln p + (1 − y)·ln(1 − p)) / Σ w, with p clipped to [1e-7, 1 − 1e-7]",
        (0, -math.log(1e-7)),
        "lower",
        format=".5f",
        column_of=_BINARY,
        column_rank=6,
    ),
    MetricSpec(
        "ne",
        _BINARY,
        "normalized entropy: log loss divided by that of always predicting the mean label (He et al., ADKDD 2014)",
        (0, math.inf),
        "lower",
        label="NE",
    ),
    MetricSpec(
        "rce",
        _BINARY,
        "relative cross entropy: 100 · (1 − ne), in percent",
        (-math.inf, 100),
        "higher",
        label="RCE",
        format=".2f",
        column_of=_BINARY,
    ),
    MetricSpec(
        "nrce",
        _BINARY,
        "rce after scaling the predictions so that their mean is the mean label",
        (-math.inf, 100),
        "higher",
        label="NRCE",
        format=".2f",
    ),
    MetricSpec(
        "auc",
        _BINARY,
        "area under the ROC curve, ties counting half",
        better="higher",
        aliases=("roc_auc", "auroc"),
        label="AUC",
        column_of=_BINARY,
        headline=True,
    ),
    MetricSpec("auc_se", _BINARY, "standard error of `auc` from its counts of rows (Hanley & McNeil 1982)", (0, 0.5)),
    MetricSpec("auc_bound", _BINARY, "maximum error of `auc` due to binning; 0 while it is exact", (0, 0.5)),
    MetricSpec(
        "pr_auc",
        _BINARY,
        "average precision: Σ precision · gain in recall, from the highest prediction down",
        better="higher",
        label="PR-AUC",
        column_of=_BINARY,
        column_rank=7,
    ),
    MetricSpec(
        "grouped_auc",
        _BINARY,
        "mean of the users' own AUC, weighted by their rows (arXiv:1706.06978)",
        better="higher",
        needs="user",
        label="grouped AUC",
        column_of=_BINARY,
        column_rank=5,
    ),
    MetricSpec(
        "positive_rank",
        _BINARY,
        "mean rank of positives in their user's list, highest prediction first",
        (1, math.inf),
        "lower",
        needs="user",
        aliases=("positive_ranks",),
    ),
    MetricSpec(
        "reciprocal_rank",
        _BINARY,
        "mean over users with a positive of 1 / rank of their first positive (MRR)",
        better="higher",
        needs="user",
    ),
    MetricSpec(
        "hit_at",
        _BINARY,
        "share of users whose first positive has rank ≤ k, among users with a positive",
        better="higher",
        needs="user",
        at_ranks=True,
        aliases=("hit_at_k",),
    ),
    MetricSpec("mean_label", _REGRESSION, "Σ wy / Σ w", _VALUE, format=".5g", column_of=_REGRESSION, column_rank=3),
    MetricSpec(
        "mean_prediction",
        _REGRESSION,
        "Σ wp / Σ w, with p the predicted value",
        _VALUE,
        format=".5g",
        column_of=_REGRESSION,
        column_rank=2,
    ),
    MetricSpec(
        "mae",
        _REGRESSION,
        "mean absolute error: Σ w·abs(p − y) / Σ w",
        _ERROR,
        "lower",
        label="MAE",
        format=".5g",
        column_of=_REGRESSION,
    ),
    MetricSpec(
        "rmse",
        _REGRESSION,
        "root mean squared error: √(Σ w(p − y)² / Σ w)",
        _ERROR,
        "lower",
        label="RMSE",
        format=".5g",
        column_of=_REGRESSION,
    ),
    MetricSpec(
        "xauc",
        _REGRESSION,
        "share of pairs of rows that predictions and labels put in the same order; pairs with equal labels are "
        "ignored, equal predictions count half (Zhan et al., KDD 2022)",
        better="higher",
        label="XAUC",
        column_of=_REGRESSION,
        headline=True,
    ),
)
"""Every metric once, in the order of reports."""


def metrics_of(kind: TaskKind) -> tuple[MetricSpec, ...]:
    """The metrics of a kind of task, in the order of reports."""
    return tuple(spec for spec in METRICS if kind in spec.of)


METRIC_NAMES = tuple(spec.name for spec in METRICS)
BINARY_METRICS = tuple(spec.name for spec in metrics_of("binary"))
REGRESSION_METRICS = tuple(spec.name for spec in metrics_of("regression"))
GROUPED_METRICS = tuple(spec.name for spec in METRICS if spec.needs == "user")
WATCHABLE = tuple(spec.name for spec in METRICS if spec.better is not None and not spec.at_ranks)
LOWER_IS_BETTER = frozenset(spec.name for spec in METRICS if spec.better == "lower")

if TYPE_CHECKING:
    # A type checker cannot evaluate a Literal of a variable.
    MetricName = str
    WatchedMetric = str
else:
    MetricName = Literal[METRIC_NAMES]
    WatchedMetric = Literal[WATCHABLE]
    """A metric that is better when higher, or when lower."""

SPECS = {spec.name: spec for spec in METRICS}
"""The metrics by name."""
_AT_RANK = re.compile(r"(.+)_\d+")


def bound_of(reported: str) -> str:
    """The name of the bound that is reported with a metric that is not exact."""
    return f"{reported}_bound"


def spec_of(reported: str) -> MetricSpec | None:
    """The metric reported as `auc` or `hit_at_3`, for example; None if it is unknown."""
    if reported in SPECS:
        return SPECS[reported]
    match = _AT_RANK.fullmatch(reported)
    spec = SPECS.get(match[1]) if match is not None else None
    return spec if spec is not None and spec.at_ranks else None


def format_metric(reported: str, value: float) -> str:
    """The value of a metric for a person; `-` where it is undefined."""
    spec = spec_of(reported)
    return "-" if math.isnan(value) else format(value, spec.format if spec is not None else MetricSpec.format)


def metrics_table(kind: TaskKind) -> str:
    """The Markdown table of the metrics of a kind of task, for docs/metrics.md."""
    lines = ["| name | range | better | definition |", "|---|---|---|---|"]
    for spec in metrics_of(kind):
        name = f"`{spec.name}` as `{spec.at(1)}`, …" if spec.at_ranks else f"`{spec.name}`"
        low, high = (f"{bound:.3g}".replace("inf", "∞").replace("-", "−") for bound in spec.range)
        lines.append(f"| {name} | {low} to {high} | {spec.better or '–'} | {spec.definition} |")
    return "\n".join(lines)


class MetricsConfig(BaseConfig):
    """Parameters of metrics."""

    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Calibrated probability from which `precision` and `recall` count a row as predicted positive."""
    hit_at: Annotated[list[PositiveInt], Field(min_length=1)] = [1, 3, 10]
    """Ranks k of `hit_at`, ascending; each is reported as `hit_at_k`."""

    def checks(self) -> tuple[Check, ...]:
        return (self._ranks_ascend,)

    def _ranks_ascend(self) -> Problems:
        if self.hit_at != sorted(set(self.hit_at)):
            yield ("hit_at",), f"must be ascending, found {self.hit_at}"
