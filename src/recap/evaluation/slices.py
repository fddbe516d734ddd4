"""The slices of a split where a model does worst: values of single columns, each compared with all other rows.

Two questions are asked of every value and binary task:

- calibration: is Σ wp / Σ wy (PCOC) of the slice another than that of the other rows, and further from 1? By
  d = (Σ wy − c · Σ wp) / Σ w of the slice, with c = Σ wy / Σ wp of the others. Two-sided.
- rce: is the relative cross entropy of the slice below that of the others? One-sided.

The standard error is that of the jackknife over buckets of users; for calibration at least that of independent rows,
since the jackknife of few positives is too small just where they happen to be few. p-values are corrected for all
questions by `holm`: the chance that any slice is listed by mistake is at most 5 %.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, Self

import torch
from torch import Tensor

from recap.evaluation.metrics.estimate import FEW_BUCKETS, Estimate, holm, t_probability
from recap.evaluation.metrics.sums import base_entropy
from recap.evaluation.observers.bins import Bin, Bins, Stratum
from recap.evaluation.observers.columns import LABEL, LOSS, PREDICTION, VARIANCE, WEIGHT, ColumnSums
from recap.evaluation.plain import from_plain

LEVEL = 0.05
"""The chance of any slice by mistake."""
MIN_ROWS = 200
"""Rows of a slice, and of the others."""
MIN_EXPECTED = 20
"""Positives of a slice for its calibration: those expected if it is like the others. Choosing by the actual ones would
prefer slices that have many by chance."""
MIN_POSITIVES = 100
"""Positives and negatives of a slice for its relative cross entropy, whose jackknife is too small with fewer."""
MAX_SLICES = 100
"""Slices of a result."""
_WORTH_TESTING = 1.6
"""|t| below which a one-sided p is above `LEVEL` for any freedom."""
Kind = Literal["calibration", "rce"]


@dataclass(frozen=True)
class SliceResult:
    """A slice that does worse than the other rows."""

    kind: Kind
    """`calibration`: its PCOC differs; `rce`: its predictions tell less."""
    task: str
    feature: str
    """The column; `NAME[2]` for the third value of a list."""
    values: str
    """What it holds in these rows: `en`, `1 to 24`, `missing`."""
    rows: int
    """Those with a weight."""
    positives: int
    calibration: float
    """PCOC = Σ wp / Σ wy; NaN without positives."""
    calibration_interval: tuple[float, float]
    """Of 95 %."""
    calibration_of_others: float
    rce: float
    """Relative cross entropy in percent, against always predicting the mean label of the slice; NaN if that is 0."""
    rce_interval: tuple[float, float]
    rce_of_others: float
    p: float
    """Corrected for all questions."""
    stratum: Stratum | None = None
    """The slice as an entry of `strata`; None if no stratum selects it."""


@dataclass(frozen=True)
class Slices:
    """The slices of a split that do worse than the other rows, and how many were looked at."""

    slices: Sequence[SliceResult]
    """Those of `calibration`, then those of `rce`; in each the surest first."""
    looks: int
    """Questions that were asked: values × tasks with enough rows, twice."""
    more: int = 0
    """Slices beyond `MAX_SLICES`, which are not listed."""
    left_out: int = 0
    """Columns that were not looked at, because their sums would not fit the memory."""

    def to_json(self) -> dict[str, Any]:
        """Plain values for `evaluation.json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`. Raises KeyError or TypeError for invalid content."""
        values = {key: content[key] for key in ("looks", "more", "left_out")}
        slices = [
            SliceResult(**{**item, **{key: from_plain(item[key]) for key in _MAY_BE_NAN}}) for item in content["slices"]
        ]
        return cls(tuple(slices), **values)


_MAY_BE_NAN = (
    "calibration",
    "calibration_interval",
    "calibration_of_others",
    "rce",
    "rce_interval",
    "rce_of_others",
)


def find_slices(bins: Bins, sums: ColumnSums, tasks: Sequence[str]) -> Slices:
    """The slices among `bins` that do worse than the other rows. `tasks`: those of `sums`."""
    questions = [question for column in range(len(bins.columns)) for question in _questions(bins, column, sums)]
    corrected = holm([question.p for question in questions]).tolist()
    significant = [
        (question, p) for question, p in zip(questions, corrected, strict=True) if p <= LEVEL and question.is_worse
    ]
    significant.sort(key=lambda item: (item[0].kind, -item[0].t))
    listed = [_result(bins, sums, tasks, question, p) for question, p in significant[:MAX_SLICES]]
    return Slices(tuple(listed), len(questions), max(len(significant) - MAX_SLICES, 0), bins.left_out)


class _Question(NamedTuple):
    """One look at one slice."""

    kind: Kind
    column: int
    bin: int
    """Among those of the column."""
    task: int
    t: float
    """The deviation in standard errors, above 0 where it is bad."""
    freedom: int
    is_worse: bool
    """Whether the slice is worse than the others; where they differ, one of them may be fine."""

    @property
    def p(self) -> float:
        """Not corrected."""
        if self.t < _WORTH_TESTING:
            return 1.0
        tail = max(1 - t_probability(self.t, self.freedom), 0.0)
        return 2 * tail if self.kind == "calibration" else tail


def _questions(bins: Bins, column: int, sums: ColumnSums) -> Iterator[_Question]:
    slices, counts = _of_column(bins, column, sums)
    total = slices.sum(dim=0)  # [G, _SUMS, T]
    others = total - slices
    rows, positives = counts.unbind(dim=1)  # [bins, T]
    one, rest = _sum(slices), _sum(others)
    worse = ~(_pcoc(one).log().abs() < _pcoc(rest).log().abs())  # [bins, T]; also without a positive
    expected = one[:, PREDICTION] / one[:, WEIGHT] * rest[:, LABEL] / rest[:, PREDICTION] * rows
    other_rows, other_positives = rows.sum(dim=0) - rows, positives.sum(dim=0) - positives
    freedom = (slices[:, :, WEIGHT] > 0).sum(dim=1) - 1  # [bins, T]
    enough = (rows >= MIN_ROWS) & (other_rows >= MIN_ROWS) & (other_positives >= MIN_EXPECTED)
    enough &= freedom + 1 >= FEW_BUCKETS
    occupied = total[:, WEIGHT] > 0  # [G, T]
    fewer = torch.minimum(positives, rows - positives)
    kinds: dict[Kind, tuple[Tensor, Tensor]] = {
        "calibration": (_calibration_t(slices, others, occupied), expected >= MIN_EXPECTED),
        "rce": (_rce_t(slices, others, occupied), fewer >= MIN_POSITIVES),
    }
    for kind, (t, certain) in kinds.items():
        asked = enough & certain & t.isfinite()
        for bin_, task in asked.nonzero().tolist():
            is_worse = kind == "rce" or bool(worse[bin_, task])
            yield _Question(kind, column, bin_, task, t[bin_, task].item(), int(freedom[bin_, task]), is_worse)


def _of_column(bins: Bins, column: int, sums: ColumnSums) -> tuple[Tensor, Tensor]:
    start = bins.starts[column]
    positions = slice(start, start + len(bins.columns[column].bins))
    return sums.sums[positions], sums.counts[positions]


def _sum(sums: Tensor) -> Tensor:
    """[bins, G, _SUMS, T] → [bins, _SUMS, T]."""
    return sums.sum(dim=1)


def _without_each(sums: Tensor) -> Tensor:
    """The sums without each bucket, [bins, G, _SUMS, T]."""
    return sums.sum(dim=1, keepdim=True) - sums


def _standard_error(replicates: Tensor, occupied: Tensor) -> Tensor:
    """Of the jackknife, as in `Estimate`: [bins, G, T] → [bins, T]. `occupied` [G, T]: the buckets with rows."""
    groups = occupied.sum(dim=0)  # [T]
    mean = torch.where(occupied, replicates, 0.0).sum(dim=1, keepdim=True) / groups
    squares = torch.where(occupied, (replicates - mean).square(), 0.0).sum(dim=1)
    return ((groups - 1) / groups * squares).sqrt()


def _residual(slices: Tensor, others: Tensor) -> Tensor:
    """(Σ wy − c · Σ wp) / Σ w of slices, [bins, …, _SUMS, T] → [bins, …, T]."""
    scale = others[..., LABEL, :] / others[..., PREDICTION, :]
    return (slices[..., LABEL, :] - scale * slices[..., PREDICTION, :]) / slices[..., WEIGHT, :]


def _calibration_t(slices: Tensor, others: Tensor, occupied: Tensor) -> Tensor:
    """|t| of the residual, [bins, T]; NaN where it is undefined."""
    one, rest = _sum(slices), _sum(others)
    jackknife = _standard_error(_residual(_without_each(slices), _without_each(others)), occupied)
    scale = rest[:, LABEL] / rest[:, PREDICTION]
    share = one[:, PREDICTION] / rest[:, PREDICTION]
    independent = (scale * (one[:, VARIANCE] + share.square() * rest[:, VARIANCE])).sqrt() / one[:, WEIGHT]
    return _residual(one, rest).abs() / torch.maximum(jackknife, independent)


def _rce_of(sums: Tensor) -> Tensor:
    """Relative cross entropy in percent, [bins, …, _SUMS, T] → [bins, …, T]."""
    weight = sums[..., WEIGHT, :]
    return 100 * (1 - sums[..., LOSS, :] / weight / base_entropy(sums[..., LABEL, :] / weight))


def _rce_t(slices: Tensor, others: Tensor, occupied: Tensor) -> Tensor:
    """t of the other rows minus the slices, [bins, T]; NaN where it is undefined."""
    gaps = _rce_of(_without_each(others)) - _rce_of(_without_each(slices))
    gap = _rce_of(_sum(others)) - _rce_of(_sum(slices))
    return gap / _standard_error(gaps, occupied)


def _result(bins: Bins, sums: ColumnSums, tasks: Sequence[str], question: _Question, p: float) -> SliceResult:
    slices, counts = _of_column(bins, question.column, sums)
    one = slices[question.bin : question.bin + 1, :, :, question.task, None]  # [1, G, _SUMS, 1]
    rest = slices.sum(dim=0)[None, :, :, question.task, None] - one
    column = bins.columns[question.column]
    bin_: Bin = column.bins[question.bin]
    rows, positives = counts[question.bin, :, question.task].tolist()
    return SliceResult(
        question.kind,
        tasks[question.task],
        column.feature,
        bin_.text,
        int(rows),
        int(positives),
        _pcoc(_sum(one)).item(),
        _interval(one, _pcoc),
        _pcoc(_sum(rest)).item(),
        _rce_of(_sum(one)).item(),
        _interval(one, _rce_of),
        _rce_of(_sum(rest)).item(),
        p,
        bin_.stratum,
    )


def _pcoc(sums: Tensor) -> Tensor:
    ratio = sums[..., PREDICTION, :] / sums[..., LABEL, :]
    return torch.where(ratio.isfinite(), ratio, torch.nan)


def _interval(one: Tensor, metric: Callable[[Tensor], Tensor]) -> tuple[float, float]:
    occupied = one[0, :, WEIGHT, 0] > 0
    estimate = Estimate(metric(_sum(one)).item(), metric(_without_each(one))[0, occupied, 0].numpy())
    return estimate.interval()
