"""Predictions and labels of a regression in a histogram of fixed size, whatever their unit."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recap.distributed import Ranks
from recap.evaluation.metrics.reliability import binned, equal_mass_bins

CELLS = 65_536
"""The first 16 bits of a float32, so a cell is at most 0.8 % wide, relative to its values."""
VALUE_BINS = 50
_TAIL = 0.005
"""The share of predictions and labels at either end that lies in the outermost bins."""
_Z = 1.959963984540054
_Floats = npt.NDArray[np.float64]


class ValueCells:
    """Sums over rows by cell: Σ w, Σ wp, Σ wy, Σ wy², Σ w² and the number of rows by prediction; and Σ w by label."""

    def __init__(self, sums: Sequence[Tensor] | None = None) -> None:
        shapes = ((CELLS, 6), (CELLS,))
        self.sums = list(sums) if sums is not None else [torch.zeros(shape, dtype=torch.float64) for shape in shapes]

    def update(self, predictions: Tensor, labels: Tensor, weights: Tensor) -> None:
        """Add rows: [B] float64 each."""
        counted = (weights > 0).double()
        columns = [weights, weights * predictions, weights * labels, weights * labels**2, weights**2, counted]
        self.sums[0].index_add_(0, _cells(predictions), torch.stack(columns, dim=1))
        self.sums[1].index_add_(0, _cells(labels), weights)

    def reduced(self, ranks: Ranks) -> "ValueCells":
        """The rows of all ranks."""
        return ValueCells(ranks.all_reduce(self.sums))

    def curves(self, bins: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
        """`means` and `values` of `TaskCurves`; empty without rows."""
        by_prediction, labels = self.sums[0].T, self.sums[1].numpy()
        if not labels.any():
            return {}, {}
        return self._means(by_prediction, bins), self._values(by_prediction[0].numpy(), labels)

    def _means(self, by_prediction: Tensor, bins: int) -> dict[str, list[float]]:
        numbers = equal_mass_bins(by_prediction[0], bins)
        sums = torch.stack([binned(column.contiguous(), numbers, bins) for column in by_prediction]).numpy()
        weight, prediction, label, square, squares, count = sums[:, sums[0] > 0]
        mean = label / weight
        half = _Z * np.sqrt(np.maximum(square / weight - mean**2, 0) * squares) / weight
        columns = {"prediction": prediction / weight, "label": mean, "low": mean - half, "high": mean + half}
        return {name: column.tolist() for name, column in (columns | {"weight": weight, "count": count}).items()}

    def _values(self, predictions: _Floats, labels: _Floats) -> dict[str, list[float]]:
        centres = _centres()
        ends = [_quantile(weights, share) for weights in (predictions, labels) for share in (_TAIL, 1 - _TAIL)]
        low, high = float(centres[min(ends)]), float(centres[max(ends)])
        edges = np.linspace(low, high, VALUE_BINS + 1) if high > low else np.array([low, low])
        index = np.clip(np.searchsorted(edges, centres, side="right") - 1, 0, len(edges) - 2)
        shares = {
            name: np.bincount(index, weights, minlength=len(edges) - 1) / weights.sum()
            for name, weights in (("predictions", predictions), ("labels", labels))
        }
        return {"edges": edges.tolist(), **{name: share.tolist() for name, share in shares.items()}}


def _cells(values: Tensor) -> Tensor:
    """[B] finite → [B] int64, in the order of the values."""
    bits = (values.float() + 0).view(torch.int32).long()  # + 0: −0 is equal to 0
    return torch.where(bits < 0, 0x7FFF_FFFF - (bits & 0x7FFF_FFFF), bits + 0x8000_0000) >> 16


def _centres() -> _Floats:
    """[CELLS], a value in the middle of each; those of infinities and NaN, which no row has, are finite too."""
    middle = (np.arange(CELLS, dtype=np.int64) << 16) + (1 << 15)
    bits = np.where(middle < 1 << 31, 0x7FFF_FFFF - middle | 1 << 31, middle - (1 << 31)).astype(np.uint32)
    centres: _Floats = torch.from_numpy(bits.view(np.float32)).nan_to_num(nan=0.0).double().numpy()
    return centres


def _quantile(weights: _Floats, share: float) -> int:
    """The first cell at which the weights reach this share of their sum."""
    total = np.cumsum(weights)
    return int(np.searchsorted(total, share * total[-1]))
