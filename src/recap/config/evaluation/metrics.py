"""The metrics of a run, with every fact about them.

The names that a configuration accepts, the columns and digits of terminal tables, the published aliases and the tables
of docs/metrics.md come from `METRICS`.
"""

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from recap.config.base import BaseConfig, Check, Name, PositiveInt, Problems

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
    needs: Literal["lists"] | None = None
    """`lists`: it ranks the rows of each list, so `features.user` or `features.request` must be set."""
    at_ranks: bool = False
    """Whether it has a value for each rank k of the field of `metrics` of its name, reported as `NAME_k`."""
    of_fields: bool = False
    """Whether it has a value for each feature of `metrics.fields`, reported as `NAME_FEATURE`."""
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
    MetricSpec(
        "calibration",
        _BINARY,
        "pctr / ctr (PCOC, predicted clicks over clicks); 1 is best",
        (0, math.inf),
        column_of=_BINARY,
    ),
    MetricSpec(
        "ece",
        _BINARY,
        "expected calibration error: Σ over bins of abs(Σ wp − Σ wy) / Σ w, with `metrics.calibration_bins` (20) bins "
        "of equal weight by prediction (Naeini et al., AAAI 2015; equal-mass: Nixon et al., CVPR Workshops 2019)",
        better="lower",
        label="ECE",
        format=".5f",
        column_of=_BINARY,
        column_rank=8,
    ),
    MetricSpec(
        "field_rce",
        _BINARY,
        "field-level relative calibration error: the mean over the values of a feature, by weight, of "
        "abs(Σ wp − Σ wy) / (Σ wy + ε·Σ w), with ε 5% of `ctr` (Pan et al., WWW 2020, arXiv:1905.10713)",
        (0, math.inf),
        "lower",
        of_fields=True,
        label="Field-RCE",
    ),
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
        "brier",
        _BINARY,
        "mean squared error Σ w(p − y)² / Σ w (Brier, Monthly Weather Review 1950)",
        better="lower",
        label="Brier score",
        format=".5f",
        column_of=_BINARY,
        column_rank=9,
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
        "mean AUC of lists with both labels, weighted by their rows (arXiv:1706.06978)",
        better="higher",
        needs="lists",
        label="grouped AUC",
        column_of=_BINARY,
        column_rank=5,
    ),
    MetricSpec(
        "positive_rank",
        _BINARY,
        "mean rank of positives in their list, highest prediction first",
        (1, math.inf),
        "lower",
        needs="lists",
        aliases=("positive_ranks",),
    ),
    MetricSpec(
        "reciprocal_rank",
        _BINARY,
        "mean over lists with a positive of 1 / rank of their first positive (MRR)",
        better="higher",
        needs="lists",
    ),
    MetricSpec(
        "hit_at",
        _BINARY,
        "share of lists whose first positive has rank ≤ k, among lists with a positive",
        better="higher",
        needs="lists",
        at_ranks=True,
        aliases=("hit_at_k",),
    ),
    MetricSpec(
        "ndcg_at",
        _BINARY,
        "mean over lists with a positive of DCG / ideal DCG of the first k, with the label as gain and the discount "
        "1 / log2(1 + rank) (Järvelin & Kekäläinen, TOIS 2002)",
        better="higher",
        needs="lists",
        at_ranks=True,
        label="NDCG",
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
GROUPED_METRICS = tuple(spec.name for spec in METRICS if spec.needs == "lists")
WATCHABLE = tuple(spec.name for spec in METRICS if spec.better is not None and not spec.at_ranks and not spec.of_fields)
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
    of_field = next((spec for spec in METRICS if spec.of_fields and reported.startswith(f"{spec.name}_")), None)
    if of_field is not None:
        return of_field
    match = _AT_RANK.fullmatch(reported)
    spec = SPECS.get(match[1]) if match is not None else None
    return spec if spec is not None and spec.at_ranks else None


SCORE_METRICS = (
    MetricSpec("ndcg", (), "DCG of the order by the score / DCG of the best order, by engagement", better="higher"),
    MetricSpec("engagement", (), "mean engagement of the first k rows of lists", _VALUE, "higher", at_ranks=True),
    MetricSpec(
        "uplift",
        (),
        "(engagement − random) / (best − random) of the first k rows",
        (-math.inf, 1),
        "higher",
        at_ranks=True,
    ),
)
"""The metrics of the final score that are better higher; their ranks k are those of `hit_at`."""


def score_spec_of(reported: str) -> MetricSpec | None:
    """The metric of the final score reported as `ndcg` or `uplift_3`, for example; None if it is unknown."""
    match = _AT_RANK.fullmatch(reported)
    for spec in SCORE_METRICS:
        if spec.name == (match[1] if match is not None and spec.at_ranks else reported):
            return spec
    return None


def format_metric(reported: str, value: float) -> str:
    """The value of a metric for a person; `-` where it is undefined."""
    spec = spec_of(reported)
    return "-" if math.isnan(value) else format(value, spec.format if spec is not None else MetricSpec.format)


def metrics_table(kind: TaskKind) -> str:
    """The Markdown table of the metrics of a kind of task, for docs/metrics.md."""
    lines = ["| name | range | better | definition |", "|---|---|---|---|"]
    for spec in metrics_of(kind):
        name = f"`{spec.name}` as `{spec.at(1)}`, …" if spec.at_ranks else f"`{spec.name}`"
        name = f"`{spec.name}` as `{spec.name}_FEATURE`" if spec.of_fields else name
        low, high = (f"{bound:.3g}".replace("inf", "∞").replace("-", "−") for bound in spec.range)
        lines.append(f"| {name} | {low} to {high} | {spec.better or '–'} | {spec.definition} |")
    return "\n".join(lines)


ListKind = Literal["user", "request", "user_day"]


class MetricsConfig(BaseConfig):
    """Parameters of metrics."""

    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Calibrated probability from which `precision` and `recall` count a row as predicted positive."""
    calibration_bins: Annotated[int, Field(ge=1, le=1000)] = 20
    """Bins of equal weight of `ece` and of reliability curves."""
    lists: ListKind | None = None
    """What a list is, for the metrics that rank: the rows of a `user`, of a `request` (`features.request`), or of a
    user and day in UTC, `user_day` (`features.timestamp`: timestamps, or milliseconds since 1970). Optional; default:
    request if `features.request` is set, else user."""
    hit_at: Annotated[list[PositiveInt], Field(min_length=1)] = [1, 3, 10]
    """Ranks k of `hit_at`, ascending; each is reported as `hit_at_k`."""
    ndcg_at: Annotated[list[Annotated[PositiveInt, Field(le=1000)]], Field(min_length=1)] = [10]
    """Ranks k of `ndcg_at`, ascending, at most 1,000; each is reported as `ndcg_at_k`."""
    fields: list[Name] = []
    """Features with one value per row, for each of which `recap evaluate` reports `field_rce`, as `field_rce_NAME`."""

    def checks(self) -> tuple[Check, ...]:
        return (self._ranks_ascend,)

    def ranks(self, spec: MetricSpec) -> list[int]:
        """The ranks k for which a metric with `at_ranks` is reported."""
        ranks: list[int] = getattr(self, spec.name)
        return ranks

    def _ranks_ascend(self) -> Problems:
        for name in ("hit_at", "ndcg_at"):
            ranks: list[int] = getattr(self, name)
            if ranks != sorted(set(ranks)):
                yield (name,), f"must be ascending, found {ranks}"
