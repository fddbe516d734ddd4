"""Policies for non-finite steps, and the message that names their rows."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from typing import assert_never

import torch
from torch import Tensor

from recap.config.recap import RecapConfig
from recap.config.training import NonFiniteConfig, RaiseConfig, RollbackConfig, SkipStepsConfig
from recap.data.batch import Batch
from recap.data.stream.batch_stream import BatchStream
from recap.errors import NotFinite, RunError
from recap.model.objective.objective import Objective
from recap.model.ranker import Ranker
from recap.training.state import Progress
from recap.training.step import split_rows

ADVICE = (
    "Lower the learning rates, lengthen their ramp, look for extreme values in these rows, or let the run skip such "
    "steps: training.non_finite: {kind: skip, budget: 10}"
)
_MAX_ROWS_SHOWN = 10
_MAX_FILES_SHOWN = 5


class RolledBack(Exception):
    """The run has to roll back to its latest checkpoint."""

    def __init__(self, message: str, rolled_back: list[list[int]]) -> None:
        """`rolled_back`: the new value of `Progress.rolled_back`."""
        super().__init__(message)
        self.rolled_back = rolled_back


Policy = Callable[[Progress, str, list[int]], str]
"""Handles a non-finite step: (progress, message, [start, end) of its rows) → the message if the step is skipped.

Raises RunError to end the run, RolledBack to roll it back.
"""


def build_policy(config: NonFiniteConfig) -> Policy:
    """The configured policy."""
    match config:
        case RaiseConfig():
            return _end
        case SkipStepsConfig():
            return partial(_skip, config.budget)
        case RollbackConfig():
            return partial(_roll_back, config.budget)
        case _:
            assert_never(config)


def _end(progress: Progress, message: str, rows: list[int]) -> str:
    raise RunError(f"{message}\n{ADVICE}")


def _skip(budget: int, progress: Progress, message: str, rows: list[int]) -> str:
    if progress.skipped_steps >= budget:
        raise RunError(f"{message}\n{progress.skipped_steps:,} steps were skipped before; {_OVER_BUDGET}")
    return f"{message}\nskipped ({progress.skipped_steps + 1:,} of at most {budget:,})"


def _roll_back(budget: int, progress: Progress, message: str, rows: list[int]) -> str:
    if len(progress.rolled_back) >= budget:
        raise RunError(f"{message}\nthe run rolled back {len(progress.rolled_back):,} times before; {_OVER_BUDGET}")
    rolled_back = [*progress.rolled_back, rows]
    count = f"{len(rolled_back):,} of at most {budget:,}"
    raise RolledBack(
        f"{message}\nrolling back to it, or to the initial weights; the rows of that step are skipped ({count})",
        rolled_back,
    )


_OVER_BUDGET = "training.non_finite.budget allows no more. Lower the learning rates, fix the data, or raise the budget"


class RowLosses:
    """Finds the rows with a non-finite loss. In evaluation mode, since BatchNorm spreads a bad value to all rows."""

    def __init__(self, config: RecapConfig, ranker: Ranker, device: torch.device) -> None:
        self._ranker, self._device = ranker, device
        self._objective = Objective(config).to(device)
        self._micro_batches = config.training.gradient_accumulation or 1

    @torch.no_grad()
    def not_finite(self, batch: Batch) -> Tensor:
        """Whether the loss of each row is not finite, [B] bool on the CPU."""
        losses = list[Tensor]()
        self._ranker.eval()
        try:
            for micro_batch in split_rows(batch, self._micro_batches):
                on_device = micro_batch.to(self._device)
                losses.append(self._objective.row_losses(self._ranker(on_device).logits, on_device))
        finally:
            self._ranker.train()
        return (~torch.cat(losses).isfinite()).any(dim=1).cpu()


def describe(error: NotFinite, batch: Batch, row_losses: RowLosses, stream: BatchStream) -> str:
    """The error with rows by file: those whose own loss is not finite, or else all rows of the step.

    `batch` is this rank's share of the rows; every rank must call it, and gets the same text.
    """
    rows = stream.last_rows()
    (bad,) = stream.ranks.all_gather([row_losses.not_finite(batch).to(torch.uint8)])
    # Down-sampled rows have no known place. If all are bad, the weights are the cause.
    suspects = bad.nonzero().flatten().tolist() if len(rows) == len(bad) and not bad.all() else []
    if suspects:
        shown = sorted(rows[index] for index in suspects[:_MAX_ROWS_SHOWN])
        files = [f"{file}: {_rows(numbers)}" for file, numbers in _by_file(shown)]
        more = f" and {len(suspects) - _MAX_ROWS_SHOWN:,} more" if len(suspects) > _MAX_ROWS_SHOWN else ""
        return f"{error}. Rows whose own loss is not finite: {'; '.join(files)}{more}"
    files = [
        f"{file}: {len(numbers):,} of rows {min(numbers):,} to {max(numbers):,}"
        for file, numbers in _by_file(sorted(rows))
    ]
    more = f"; and {len(files) - _MAX_FILES_SHOWN:,} more files" if len(files) > _MAX_FILES_SHOWN else ""
    return f"{error}. Rows of the step: {'; '.join(files[:_MAX_FILES_SHOWN])}{more}"


def _rows(numbers: Sequence[int]) -> str:
    return ("row " if len(numbers) == 1 else "rows ") + ", ".join(map(str, numbers))


def _by_file(rows: Sequence[tuple[str, int]]) -> list[tuple[str, list[int]]]:
    return [(file, [row for _, row in group]) for file, group in groupby(rows, key=lambda row: row[0])]
