"""Metrics of regression tasks: errors and means, which follow from sums, and XAUC, the order of values."""

import torch
from torch import Tensor
from torchmetrics import Metric

from recap.evaluation.metrics.pairs import PairGrid, ordered_share

_SUMS = ("rows", "weight", "label", "prediction", "absolute", "squared")
EXACT_ROWS = 1_000_000
"""Rows kept at the most; 12 bytes a row and task."""


class RegressionSums(Metric):
    """count, mean_label, mean_prediction, mae, rmse for T tasks at once, in the unit of the labels; all sums float64.

    NaN without rows, but for the count.
    """

    full_state_update = False

    def __init__(self, tasks: int) -> None:
        super().__init__(compute_with_cache=False, sync_on_compute=False)
        for name in _SUMS:
            self.add_state(name, torch.zeros(tasks, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, predictions: Tensor, labels: Tensor, weights: Tensor) -> None:
        """[B, T] float64 each."""
        error = predictions - labels
        sums = {
            "rows": (weights > 0).double(),
            "weight": weights,
            "label": weights * labels,
            "prediction": weights * predictions,
            "absolute": weights * error.abs(),
            "squared": weights * error.square(),
        }
        for name, values in sums.items():
            getattr(self, name).add_(values.sum(dim=0))

    def compute(self) -> dict[str, Tensor]:
        """Metric → [T] float64."""
        state = {name: getattr(self, name) for name in _SUMS}
        weight = state["weight"]
        return {
            "count": state["rows"],
            "mean_label": state["label"] / weight,
            "mean_prediction": state["prediction"] / weight,
            "mae": state["absolute"] / weight,
            "rmse": (state["squared"] / weight).sqrt(),
        }


class Xauc(Metric):
    """xauc of T tasks at once: the weighted share of pairs of rows that predictions order as labels do.

    Zhan et al., KDD 2022 (arXiv:2206.06003). Pairs whose labels are equal do not count, equal predictions count half; a
    pair weighs the product of its rows' weights. Exact while all rows fit; beyond, all rows stand in a `PairGrid` for
    each task, and `xauc_bound` says how far that may be off. Which of the two answers depends on the number of rows
    alone. NaN where all labels are equal.
    """

    full_state_update = False

    def __init__(self, tasks: int, exact_rows: int = EXACT_ROWS) -> None:
        super().__init__(compute_with_cache=False, sync_on_compute=False)
        self.tasks, self.exact_rows = tasks, exact_rows
        self.rows: Tensor
        self.kept: list[Tensor]
        self.add_state("rows", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("kept", [], dist_reduce_fx="cat")  # [N, 3, T] float32: prediction, label, weight
        self.grids = [PairGrid() for _ in range(tasks)]
        """Empty while all rows are kept."""

    def update(self, predictions: Tensor, labels: Tensor, weights: Tensor) -> None:
        """[B, T] float64 each."""
        self.rows += len(predictions)
        self.kept.append(torch.stack([predictions, labels, weights], dim=1).float())
        self._let_go()

    def merge_state(self, incoming_state: "dict[str, Tensor] | Metric") -> None:
        """Take in the rows of another one."""
        assert isinstance(incoming_state, Xauc)
        super().merge_state(incoming_state)
        for grid, other in zip(self.grids, incoming_state.grids, strict=True):
            grid.merge(other)
        self._let_go()

    def reset(self) -> None:
        """Forget all rows."""
        super().reset()
        self.grids = [PairGrid() for _ in range(self.tasks)]

    def compute(self) -> dict[str, Tensor]:
        """`xauc` and `xauc_bound` → [T] float64."""
        if int(self.rows) > self.exact_rows:
            found = [grid.share() for grid in self.grids]
        else:
            rows = torch.cat([*self.kept, torch.zeros(0, 3, self.tasks)]).double().numpy()
            found = [(ordered_share(*rows[:, :, task].T), 0.0) for task in range(self.tasks)]
        values = torch.tensor(found, dtype=torch.float64).reshape(-1, 2)
        return {"xauc": values[:, 0], "xauc_bound": values[:, 1]}

    def _let_go(self) -> None:
        if int(self.rows) > self.exact_rows and self.kept:
            rows = torch.cat(self.kept).double().numpy()
            for task, grid in enumerate(self.grids):
                grid.add(*rows[:, :, task].T)
            self.kept = []
