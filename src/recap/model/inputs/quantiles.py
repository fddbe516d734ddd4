"""Quantiles of columns: measured in a sample of the data, and the share of it that lies below a value."""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

_MIN_SHARE = 2.0**-23
"""Shares closer than this to 0 or 1 count as this far: ± 5.17 deviations, as in scikit-learn but for float32."""


def quantiles_of(sample: Tensor, count: int) -> Tensor:
    """[N, C] → [C, count] float32: evenly spaced quantiles of each column, from its lowest to its highest finite value.

    Linear between the values of the sample; 0 for a column without any.
    """
    quantiles = np.zeros((sample.shape[1], count), np.float32)
    for column, values in enumerate(sample.double().numpy().T):
        if len(known := values[np.isfinite(values)]):
            quantiles[column] = np.quantile(known, np.linspace(0, 1, count))
    return torch.from_numpy(np.maximum.accumulate(quantiles, axis=1))  # interpolation may round a step downwards


def points_of(quantiles: Tensor) -> Tensor:
    """Quantiles [C, Q] → [2, C, Q]: different values in ascending order, and the share of the sample below each.

    Equal quantiles become one value in the middle of their shares. The last point fills the places that this frees.
    """
    columns, count = quantiles.shape
    points = torch.empty(2, columns, count)
    for column, values in enumerate(quantiles):
        values, runs = values.unique_consecutive(return_counts=True)
        points[:, column, : len(values)] = torch.stack([values, (runs.cumsum(0) - (runs + 1) / 2) / (count - 1)])
        points[:, column, len(values) :] = points[:, column, len(values) - 1, None]
    return points


def shares(values: Tensor, points: Tensor) -> Tensor:
    """[B, C] and points [2, C, Q] → [B, C]: linear between the points, and constant beyond the first and the last."""
    count = points.shape[2]
    knots, below = points.flatten(1).unbind()
    starts = torch.arange(points.shape[1], device=points.device) * count
    right = _knots_below(values, points[0])
    left = starts + (right - 1).clamp(min=0)
    right = starts + right.clamp(max=count - 1)
    start, width = knots[left], knots[right] - knots[left]
    position = torch.where(width > 0, (values - start) / torch.where(width > 0, width, 1), 0)
    return below[left] + position * (below[right] - below[left])


def _knots_below(values: Tensor, knots: Tensor) -> Tensor:
    """[B, C] and sorted knots [C, Q] → [B, C] int64: how many knots of its column each value is above.

    A binary search in steps that every format of an export has; not so torch.searchsorted.
    """
    bits = knots.shape[1].bit_length()
    size = (1 << bits) - 1
    padded = functional.pad(knots, (0, size - knots.shape[1]), value=math.inf).flatten()
    before = torch.arange(len(knots), device=knots.device) * size - 1  # the place before the first knot
    last = before.expand_as(values)
    for bit in reversed(range(bits)):
        further = last + (1 << bit)
        last = torch.where(padded[further] < values, further, last)
    return last - before


def normal_quantile(shares: Tensor) -> Tensor:
    """The value below which a standard normal variable lies with these probabilities, of any shape; within ± 5.17.

    Wichura (Applied Statistics 1988, algorithm AS 241, PPND7), to about 7 digits, since no format of ONNX has
    torch.special.ndtri.
    """
    share = shares.clamp(_MIN_SHARE, 1 - _MIN_SHARE)
    centered = share - 0.5
    square = 0.180625 - centered.square()
    middle = centered * _ratio(square, _MIDDLE)
    tail = _ratio((-torch.minimum(share, 1 - share).log()).sqrt() - 1.6, _TAIL)
    return torch.where(centered.abs() <= 0.425, middle, tail * centered.sign())


_MIDDLE = (3.3871327179, 50.434271938, 159.29113202, 59.109374720), (1.0, 17.895169469, 78.757757664, 67.187563600)
_TAIL = (1.4234372777, 2.7568153900, 1.3067284816, 0.17023821103), (1.0, 0.73700164250, 0.12021132975)


def _ratio(values: Tensor, polynomials: tuple[tuple[float, ...], tuple[float, ...]]) -> Tensor:
    """The quotient of two polynomials; the coefficient of 1 comes first."""
    numerator, denominator = (
        sum((factor * values**power for power, factor in enumerate(factors)), start=torch.zeros_like(values))
        for factors in polynomials
    )
    return numerator / denominator
