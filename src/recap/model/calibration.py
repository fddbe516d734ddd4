"""Probabilities of the data that was trained on → probabilities of the population.

First the exact correction for down-sampling, which follows from the configuration; then, where `recap calibrate` fitted
one, a map per task, which `calibration.json` of the model directory holds.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from recap.config.recap import RecapConfig
from recap.data.encoding.assets import discrete_columns

_LEAST = 1e-46
"""Below every float32 above 0, so that a probability of 0 has a logit."""
_MOST = 1 - 2.0**-25
"""Above every float32 below 1."""


class Calibration(nn.Module):
    """p → p·r / (1 − p + r·p): Bayes' rule for classes sampled at different rates.

    r = neg_downsampling_rate / pos_downsampling_rate of each task; r = 1 changes nothing, bit for bit.
    """

    def __init__(self, ratios: Tensor) -> None:
        """`ratios` [T] > 0, float32."""
        super().__init__()
        self.ratios: Tensor
        # Derived from the configuration, so not saved with the weights.
        self.register_buffer("ratios", ratios, persistent=False)  # [T]

    @classmethod
    def of(cls, config: RecapConfig) -> Self:
        """The calibration for the rates of `train_data`; the identity if sample weights correct for them already."""
        return cls(torch.tensor([sampling_ratios(config)[task] for task in config.tasks]))

    def forward(self, probabilities: Tensor) -> Tensor:
        """[B, T] in [0, 1] → [B, T]."""
        corrected = probabilities * self.ratios / (1 - probabilities + self.ratios * probabilities)
        return torch.where(self.ratios == 1, probabilities, corrected)


def sampling_ratios(config: RecapConfig) -> dict[str, float]:
    """Task → r of `Calibration`."""
    data = config.train_data
    rates = {task: data.tasks[task] for task in config.tasks}
    corrects = data.sampling_correction == "calibration"
    return {
        task: rate.neg_downsampling_rate / rate.pos_downsampling_rate if corrects else 1.0
        for task, rate in rates.items()
    }


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


_Logit = Annotated[float, Field(ge=-1e6, le=1e6)]
"""Far more than a fit gives, and small enough that sums and products stay finite."""


class AffineMap(_Part):
    """z → slope · z + intercept, with z the logit of a probability."""

    kind: Literal["affine"] = "affine"
    slope: Annotated[float, Field(gt=0, le=1e6)]
    intercept: _Logit


class IsotonicMap(_Part):
    """Straight lines through the points (knot, value), both logits; beyond the outer points the slope is 1."""

    kind: Literal["isotonic"] = "isotonic"
    knots: Annotated[tuple[_Logit, ...], Field(min_length=1, max_length=1000)]
    values: tuple[_Logit, ...]

    @model_validator(mode="after")
    def _ascends(self) -> Self:
        if len(self.knots) != len(self.values):
            raise ValueError("expected as many values as knots")
        for points in (self.knots, self.values):
            if any(before >= after for before, after in pairwise(points)):
                raise ValueError("expected knots and values that ascend")
        if any(after - before < 1e-100 for before, after in pairwise(self.knots)):
            raise ValueError("expected knots at least 1e-100 apart")
        return self


class Offset(_Part):
    """What rows with one value of the feature `by` add to their logits."""

    value: str | int
    """The value, for readers."""
    code: Annotated[int, Field(ge=0, lt=2**63)]
    """Its code, which the scorer looks up."""
    offset: _Logit
    positives: int


class FittedTask(_Part):
    """The calibration of one task: σ(map(z) + offset)."""

    map: AffineMap | IsotonicMap = Field(discriminator="kind")
    positives: int
    """Positive rows that it was fitted on."""
    note: str = ""
    """Why it is not of the kind that was asked for."""
    offsets: tuple[Offset, ...] = ()


class FittedCalibration(_Part):
    """The content of `calibration.json`."""

    split: str
    """The split that it was fitted on."""
    data: Any
    """The `source.inputs` of the split."""
    rows: int
    sampling: Mapping[str, float]
    """Task → ratio of `Calibration`, which was applied before."""
    by: str | None = None
    """The discrete feature of the offsets."""
    tasks: Mapping[str, FittedTask]
    left: Mapping[str, str] = {}
    """Task → why it has no fitted calibration."""
    gains: tuple[Any, ...] = ()
    """What it changed on other rows, for readers."""

    def misfit(self, config: RecapConfig) -> str | None:
        """Why this is not a calibration of a model of `config`; None if it is one."""
        unknown = [task for task in self.tasks if task not in config.tasks or task in config.regressions]
        if unknown:
            return f"{unknown[0][:60]!r} is not a binary task of this model"
        if self.by is not None and (self.by not in config.features.discrete or not has_one_code(config, self.by)):
            return f"by: {self.by[:60]!r} is not a discrete feature with one code per row"
        if self.by is None and any(task.offsets for task in self.tasks.values()):
            return "offsets need the feature 'by'"
        ratios = sampling_ratios(config)
        other = [task for task in self.tasks if self.sampling.get(task) != ratios[task]]
        if other:
            return f"it was fitted after another correction of the sampling rates of {other[0]!r}"
        return None


def has_one_code(config: RecapConfig, feature: str) -> bool:
    """Whether a discrete feature is one column of `Batch.discrete`."""
    columns = discrete_columns(config.features)[feature]
    return bool(columns.stop - columns.start == 1)


def logits_of(probabilities: Tensor) -> Tensor:
    """log p − log(1 − p), float64; those of 0 and 1 are finite, and lie beyond those of all other float32."""
    # Tensors, because ONNX would round the constants of Python to float32.
    least, most = (torch.tensor(limit, dtype=torch.float64) for limit in (_LEAST, _MOST))
    clamped = probabilities.double().maximum(least).minimum(most)
    return clamped.log() - torch.log1p(-clamped)


class FittedMaps(nn.Module):
    """Probabilities corrected for sampling → probabilities by `FittedCalibration`; other tasks keep theirs bit for bit.

    The maps of all tasks are lines on segments of the logit: a segment k from boundary k − 1 to boundary k is
    values[k] + slopes[k] · (z − anchors[k]).
    """

    is_fitted: Tensor  # [T] bool
    boundaries: Tensor  # [T, K] float64; +∞ beyond the last of a task
    anchors: Tensor  # [T · (K + 1)] float64, as values and slopes
    values: Tensor
    slopes: Tensor
    first: Tensor  # [T] int64, where the segments of a task start
    codes: Tensor  # [V] int64, ascending
    offsets: Tensor  # [V, T] float64

    def __init__(self, fitted: FittedCalibration, config: RecapConfig) -> None:
        """`fitted`: without `misfit` to `config`."""
        super().__init__()
        self.fitted, tasks = fitted, config.tasks
        maps = [_segments(fitted.tasks[task].map) if task in fitted.tasks else _IDENTITY for task in tasks]
        count = max(len(boundaries) for boundaries, _ in maps)
        # Derived from calibration.json, so not saved with the weights.
        buffers = {
            "is_fitted": torch.tensor([task in fitted.tasks for task in tasks]),
            "boundaries": _filled([boundaries for boundaries, _ in maps], count, torch.inf),
            **{
                name: _filled([lines[name] for _, lines in maps], count + 1, 0.0).flatten()
                for name in ("anchors", "values", "slopes")
            },
            "first": torch.arange(len(tasks)) * (count + 1),
        }
        for name, tensor in (buffers | _offsets(fitted, tasks)).items():
            self.register_buffer(name, tensor, persistent=False)
        self.column = None if fitted.by is None else discrete_columns(config.features)[fitted.by].start

    def forward(self, probabilities: Tensor, codes: Tensor) -> Tensor:
        """[B, T] in [0, 1] and the discrete codes [B, D] → [B, T]."""
        return self.mapped(probabilities, None if self.column is None else codes[:, self.column])

    def mapped(self, probabilities: Tensor, codes: Tensor | None) -> Tensor:
        """[B, T] in [0, 1] and the codes [B] of the feature of the offsets, if there is one → [B, T]."""
        logits = logits_of(probabilities)
        segment = (logits.unsqueeze(2) >= self.boundaries).sum(dim=2) + self.first  # [B, T]
        mapped = self.values[segment] + self.slopes[segment] * (logits - self.anchors[segment])
        if codes is not None:
            mapped = mapped + self._offset(codes)
        return torch.where(self.is_fitted, mapped.sigmoid().to(probabilities.dtype), probabilities)

    def _offset(self, codes: Tensor) -> Tensor:
        """[B] → [B, T]; 0 for values without one."""
        row = torch.searchsorted(self.codes, codes.contiguous()).clamp(max=len(self.codes) - 1)
        return torch.where((self.codes[row] == codes).unsqueeze(1), self.offsets[row], 0.0)


_Segments = tuple[list[float], dict[str, list[float]]]
"""Boundaries [K], and anchors, values and slopes [K + 1]."""
_IDENTITY: _Segments = ([], {"anchors": [0.0], "values": [0.0], "slopes": [1.0]})


def _segments(logit_map: AffineMap | IsotonicMap) -> _Segments:
    if isinstance(logit_map, AffineMap):
        return [], {"anchors": [0.0], "values": [logit_map.intercept], "slopes": [logit_map.slope]}
    knots, values = list(logit_map.knots), list(logit_map.values)
    points = pairwise(zip(knots, values, strict=True))
    inner = [(value - before) / (knot - start) for (start, before), (knot, value) in points]
    return knots, {"anchors": [knots[0], *knots], "values": [values[0], *values], "slopes": [1.0, *inner, 1.0]}


def _filled(rows: Sequence[Sequence[float]], width: int, value: float) -> Tensor:
    padded = [[*row, *[value] * (width - len(row))] for row in rows]
    return torch.tensor(padded, dtype=torch.float64).reshape(len(rows), width)


def _offsets(fitted: FittedCalibration, tasks: Sequence[str]) -> dict[str, Tensor]:
    """`codes` [V] ascending and their `offsets` [V, T]; one code that no row has if there are none."""
    by_code: dict[int, list[float]] = {}
    for name, task in fitted.tasks.items():
        for offset in task.offsets:
            by_code.setdefault(offset.code, [0.0] * len(tasks))[tasks.index(name)] = offset.offset
    codes = sorted(by_code) or [-1]
    table = [by_code.get(code, [0.0] * len(tasks)) for code in codes]
    return {"codes": torch.tensor(codes), "offsets": torch.tensor(table, dtype=torch.float64)}
