"""Mean, deviation and missing share of what a model reads, and the mean of its labels: those of the training rows
travel with a model, so that a server can compare its requests with them.
"""

from collections.abc import Sequence
from typing import Annotated, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from recap.data.batch import Batch
from recap.data.encoding.assets import discrete_columns, numeric_columns
from recap.data.encoding.encoder import RowEncoder

Share = Annotated[float, Field(ge=0, le=1)]
_DIGITS = 7
"""Significant digits of a mean, about those of float32."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Moments(_Part):
    """Some values, of which a list column or a mask has several per row."""

    means: tuple[float, ...]
    """Of the finite values; 0 without any."""
    deviations: tuple[float, ...]
    """Standard deviations of the same."""
    missing: tuple[Share, ...]
    """Shares of rows with a missing or infinite value; of a discrete feature, also unknown."""


class Statistics(_Part):
    """The content of `statistics.json`."""

    rows: int
    """Rows they are from."""
    features: dict[str, Moments]
    """Numeric columns by element; pretrained vectors by their length. Discrete features have only a missing share."""
    tasks: dict[str, tuple[float, float]]
    """Task → mean and deviation of its label in the population: weights undo down-sampling. Only tasks with labels."""


class FeatureSums:
    """Sums over rows, from which the statistics of features follow; those of batches may be added."""

    def __init__(self, encoder: RowEncoder) -> None:
        features = encoder.features
        self._numbers = [
            (column.name, role, positions) for column, role, positions in numeric_columns(features, encoder.assets)
        ]
        self._vectors = list(features.vectors)
        codes = discrete_columns(features)
        self._codes = {name: codes[name] for name in encoder.read_features.discrete}
        self._widths = {name: len(positions) for name, _, positions in self._numbers} | dict.fromkeys(self._vectors, 1)
        self.rows = 0
        self.sums: npt.NDArray[np.float64] = np.zeros((3, sum(self._widths.values())))
        """Number, sum and sum of squares of the finite values of each number."""
        self.unknown: npt.NDArray[np.float64] = np.zeros(len(self._codes))
        """Codes 0 of each discrete feature, divided by its codes per row."""

    def add(self, batch: Batch) -> None:
        """Add the rows of `batch`, which is on the CPU."""
        parts = [getattr(batch, role)[:, positions.start : positions.stop] for _, role, positions in self._numbers]
        parts += [batch.vectors[name].double().norm(dim=1, keepdim=True) for name in self._vectors]
        if parts:
            values = torch.cat([part.double() for part in parts], dim=1).numpy()
            finite = np.isfinite(values)
            values = np.where(finite, values, 0.0)
            self.sums += np.stack([finite.sum(axis=0), values.sum(axis=0), np.square(values).sum(axis=0)])
        zeros = (batch.discrete == 0).sum(dim=0).numpy()
        self.unknown += [zeros[columns].mean() for columns in self._codes.values()]
        self.rows += len(batch)

    def __iadd__(self, other: "FeatureSums") -> Self:
        self.rows += other.rows
        self.sums, self.unknown = self.sums + other.sums, self.unknown + other.unknown
        return self

    def moments(self) -> dict[str, Moments]:
        """The statistics of every feature, of at least one row."""
        counts, sums, squares = self.sums
        means = sums / np.maximum(counts, 1)
        deviations = np.sqrt(np.maximum(squares / np.maximum(counts, 1) - means**2, 0))
        missing = 1 - counts / self.rows
        moments, start = dict[str, Moments](), 0
        for name, width in self._widths.items():
            part = slice(start, start + width)
            moments[name] = Moments(
                means=_rounded(means[part]), deviations=_rounded(deviations[part]), missing=_rounded(missing[part])
            )
            start += width
        for name, unknown in zip(self._codes, self.unknown, strict=True):
            moments[name] = Moments(means=(), deviations=(), missing=_rounded([min(unknown / self.rows, 1.0)]))
        return moments


def statistics_of(encoder: RowEncoder, tasks: Sequence[str], batches: Sequence[Batch]) -> Statistics:
    """The statistics of the rows of `batches`, at least one, with labels and weights of an evaluation.

    `encoder`: that of inference, so that features it does not read have none.
    """
    sums, labels = FeatureSums(encoder), np.zeros((3, len(tasks)))
    for batch in batches:
        sums.add(batch)
        assert batch.labels is not None
        assert batch.weights is not None
        values, weights = batch.labels.double(), batch.weights.double()
        labels += torch.stack([_total(weights), _total(weights * values), _total(weights * values**2)]).numpy()
    means = labels[1] / np.maximum(labels[0], 1e-30)
    deviations = np.sqrt(np.maximum(labels[2] / np.maximum(labels[0], 1e-30) - means**2, 0))
    rounded = zip(tasks, labels[0], _rounded(means), _rounded(deviations), strict=True)
    return Statistics(
        rows=sums.rows,
        features=sums.moments(),
        tasks={task: (mean, deviation) for task, weight, mean, deviation in rounded if weight > 0},
    )


def _total(values: Tensor) -> Tensor:
    return values.sum(dim=0)


def _rounded(values: Sequence[float] | npt.NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(f"{value:.{_DIGITS}g}") for value in values)
