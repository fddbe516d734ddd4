"""What a run does about a step that is not finite, and which rows it names."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from typing import assert_never

import torch
from torch import Tensor

from recap.config.training import NonFiniteConfig, RaiseConfig, RollbackConfig, SkipStepsConfig
from recap.data.batch import Batch
from recap.data.stream.batch_stream import BatchStream
from recap.errors import NotFinite, RunError
from recap.training.checkpoints import RunState
from recap.training.step import TrainStep, split_rows

ADVICE = (
    "Lower the learning rates, lengthen their ramp, look for extreme values in these rows, or let the run pass over "
    "such steps: training.non_finite: {kind: skip, budget: 10}"
)
_ROWS_SHOWN = 10
_FILES_SHOWN = 5


class RolledBack(Exception):
    """The run is to go back to its latest checkpoint."""

    def __init__(self, told: str, rolled_back: list[list[int]]) -> None:
        """`rolled_back`: what the state of the run that goes on from there holds."""
        super().__init__(told)
        self.rolled_back = rolled_back


Policy = Callable[[RunState, str, list[int]], str]
"""Counts, in the state of a run, a step that is not finite: as it is told, over the rows at a place of the line.

Returns what is to be said. Raises RunError where the run has to end, and RolledBack, with what is to be said, where it
has to go back.
"""


def build_policy(config: NonFiniteConfig) -> Policy:
    """What `config` asks for."""
    match config:
        case RaiseConfig():
            return _end
        case SkipStepsConfig():
            return partial(_skip, config.budget)
        case RollbackConfig():
            return partial(_go_back, config.budget)
        case _:
            assert_never(config)


def _end(state: RunState, told: str, place: list[int]) -> str:
    raise RunError(f"{told}\n{ADVICE}")


def _skip(budget: int, state: RunState, told: str, place: list[int]) -> str:
    if state.skipped_steps >= budget:
        raise RunError(f"{told}\n{state.skipped_steps:,} steps were skipped before, and no more may be {_OVER_BUDGET}")
    state.skipped_steps += 1
    return f"{told}\nskipped ({state.skipped_steps:,} of at most {budget:,})"


def _go_back(budget: int, state: RunState, told: str, place: list[int]) -> str:
    if len(state.rolled_back) >= budget:
        times = len(state.rolled_back)
        raise RunError(f"{told}\nthe run went back {times:,} times before, and no more may be {_OVER_BUDGET}")
    rolled_back = [*state.rolled_back, place]
    count = f"{len(rolled_back):,} of at most {budget:,}"
    raise RolledBack(
        f"{told}\ngoing back to it, or to the initial weights; the rows of that step are passed over ({count})",
        rolled_back,
    )


_OVER_BUDGET = "(training.non_finite.budget). Lower the learning rates, mend the data, or raise the budget"


def with_rows(error: NotFinite, train_step: TrainStep, batch: Batch, stream: BatchStream) -> str:
    """What is not finite, and of which rows of which files: those whose own loss is not, or else those of the batch."""
    rows = stream.last_rows()
    suspects = rows_of_bad_loss(train_step, batch) if len(rows) == len(batch) else []
    if suspects:
        shown = sorted(rows[place] for place in suspects[:_ROWS_SHOWN])
        found = [f"{file}: row{'s' * (len(of) > 1)} {', '.join(map(str, of))}" for file, of in _by_file(shown)]
        more = f" and {len(suspects) - _ROWS_SHOWN:,} more" if len(suspects) > _ROWS_SHOWN else ""
        return f"{error}. Rows whose own loss is not finite: {'; '.join(found)}{more}"
    found = [f"{file}: {len(of):,} of rows {min(of):,} to {max(of):,}" for file, of in _by_file(sorted(rows))]
    more = f"; and {len(found) - _FILES_SHOWN:,} files more" if len(found) > _FILES_SHOWN else ""
    return f"{error}. The rows of the step: {'; '.join(found[:_FILES_SHOWN])}{more}"


def rows_of_bad_loss(train_step: TrainStep, batch: Batch) -> list[int]:
    """Places in `batch` of rows with a loss that is not finite, each scored by itself, as in evaluation.

    None where all are so: then it is the weights.
    """
    ranker, losses = train_step.ranker, list[Tensor]()
    ranker.eval()  # BatchNorm of a batch would spread what is wrong with a row to all
    try:
        with torch.no_grad():
            for part in split_rows(batch, train_step.parts):
                there = part.to(train_step.runtime.device)
                assert there.labels is not None
                assert there.weights is not None
                losses.append(train_step.balancing.objective.of_rows(ranker(there).logits, there))
    finally:
        ranker.train()
    bad: list[int] = (~torch.cat(losses).isfinite()).any(dim=1).nonzero().flatten().tolist()
    return bad if len(bad) < len(batch) else []


def _by_file(rows: Sequence[tuple[str, int]]) -> list[tuple[str, list[int]]]:
    return [(file, [row for _, row in group]) for file, group in groupby(rows, key=lambda row: row[0])]
