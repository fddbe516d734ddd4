"""Optimizer steps over only those rows of a table that have a gradient; other rows cost nothing."""

from collections.abc import Iterable
from typing import Any, assert_never

import torch
from torch import Tensor

from recap.config.optimizer import AdagradConfig, AdamConfig, RowwiseAdagradConfig, SgdConfig
from recap.native.torch_private import sparse_parts


class RowOptimizer(torch.optim.Optimizer):
    """SGD without momentum, Adagrad, row-wise Adagrad or Adam for tables [rows, width], row by row.

    Rows without a gradient keep their weights and state. For all algorithms but Adam that equals a dense step. Adam is
    lazy: the moments of those rows do not decay, as in `torch.optim.SparseAdam`. Steps are counted per table, and
    epsilon is added as in dense Adam, so a table whose rows are all in every batch is updated as by dense Adam.
    """

    def __init__(
        self,
        tables: Iterable[dict[str, Any]],
        algorithm: AdamConfig | SgdConfig | AdagradConfig | RowwiseAdagradConfig,
    ) -> None:
        """`tables`: parameter groups, which start at rate 0."""
        super().__init__(tables, {"lr": 0.0})
        self.algorithm = algorithm

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Update every table that has a gradient, sparse or dense."""
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is not None:
                    rows, gradients = touched_rows(table.grad)
                    table.index_add_(0, rows, self._direction(table, rows, gradients), alpha=-group["lr"])

    def _direction(self, table: Tensor, rows: Tensor, gradients: Tensor) -> Tensor:
        """The change of `rows` [R] of a table at a rate of −1, from their gradients, both [R, width]."""
        state, algorithm = self._state(table), self.algorithm
        match algorithm:
            case SgdConfig():
                return gradients
            case AdagradConfig():
                total = state["sum"][rows] + gradients.square()  # [R, width]
                state["sum"][rows] = total
                return gradients / (total.sqrt() + algorithm.epsilon)
            case RowwiseAdagradConfig():
                total = state["sum"][rows] + gradients.square().mean(dim=1)  # [R]
                state["sum"][rows] = total
                return gradients / (total.sqrt() + algorithm.epsilon)[:, None]
            case AdamConfig():
                state["step"] += 1
                step = state["step"].item()
                mean = torch.lerp(state["exp_avg"][rows], gradients, 1 - algorithm.beta_1)
                square = torch.lerp(state["exp_avg_sq"][rows], gradients.square(), 1 - algorithm.beta_2)
                state["exp_avg"][rows], state["exp_avg_sq"][rows] = mean, square
                root = (square / (1 - algorithm.beta_2**step)).sqrt() + algorithm.epsilon
                return mean / (1 - algorithm.beta_1**step) / root
            case _:
                assert_never(algorithm)

    def _state(self, table: Tensor) -> dict[str, Tensor]:
        """The state of a table, created at its first update."""
        state: dict[str, Tensor] = self.state[table]
        if state:
            return state
        match self.algorithm:
            case SgdConfig():
                pass
            case AdagradConfig():
                state["sum"] = torch.full_like(table, self.algorithm.initial_accumulator_value)
            case RowwiseAdagradConfig():
                state["sum"] = table.new_full((len(table),), self.algorithm.initial_accumulator_value)
            case AdamConfig():
                state["step"] = torch.zeros(())
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(table), torch.zeros_like(table)
            case _:
                assert_never(self.algorithm)
        return state


def touched_rows(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """The rows [R] int64, ascending, that a gradient [rows, width] touches, and their gradients [R, width].

    Of a sparse gradient: the rows that were looked up, repeated ones summed in the order of lookups. Of a dense one:
    the nonzero rows.
    """
    if not gradient.is_sparse:
        rows = gradient.any(dim=1).nonzero().squeeze(1)
        return rows, gradient[rows]
    if gradient.device.type == "cpu":
        # Several times faster than `coalesce`, whose sort on a CPU leaves the order of summation undefined.
        indices, values = sparse_parts(gradient)  # [1, lookups], [lookups, width]
        rows, positions = torch.unique(indices[0], return_inverse=True)
        return rows, values.new_zeros(len(rows), values.shape[1]).index_add_(0, positions, values)
    gradient = gradient.coalesce()
    return gradient.indices()[0], gradient.values()
