"""What a run does about a step that is not finite, and which rows it names."""

from collections.abc import Sequence
from itertools import groupby
from typing import assert_never

import torch

from recap.config.faults import NonFiniteConfig, RaiseConfig, RollbackConfig, SkipStepsConfig
from recap.data.batch import Batch
from recap.data.stream import BatchStream
from recap.errors import RunError
from recap.training.checkpoint import RunState
from recap.training.finite import NotFinite
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


def answer(policy: NonFiniteConfig, state: RunState, told: str, place: list[int]) -> str:
    """Count the step that is not finite, as `told`, over the rows at `place` of the line; what is to be said of it.

    Raises RunError where the run has to end, RolledBack, which says it, where it has to go back.
    """
    match policy:
        case RaiseConfig():
            raise RunError(f"{told}\n{ADVICE}")
        case SkipStepsConfig():
            if state.skipped_steps >= policy.budget:
                raise RunError(
                    f"{told}\n{state.skipped_steps:,} steps were skipped before, and no more may be "
                    "(training.non_finite.budget). Lower the learning rates, mend the data, or raise the budget"
                )
            state.skipped_steps += 1
            return f"{told}\nskipped ({state.skipped_steps:,} of at most {policy.budget:,})"
        case RollbackConfig():
            if len(state.rolled_back) >= policy.budget:
                raise RunError(
                    f"{told}\nthe run went back {len(state.rolled_back):,} times before, and no more may be "
                    "(training.non_finite.budget). Lower the learning rates, mend the data, or raise the budget"
                )
            rolled_back = [*state.rolled_back, place]
            raise RolledBack(
                f"{told}\ngoing back to it, or to the initial weights; the rows of that step are passed over "
                f"({len(rolled_back):,} of at most {policy.budget:,})",
                rolled_back,
            )
        case _:
            assert_never(policy)


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
    ranker = train_step.ranker
    ranker.eval()  # BatchNorm of a batch would spread what is wrong with a row to all
    try:
        with torch.no_grad():
            found = [
                train_step.balancing.loss.of_rows(ranker(there).logits, there.labels, there.weights)
                for part in split_rows(batch, train_step.parts)
                if (there := part.to(train_step.runtime.device)).labels is not None and there.weights is not None
            ]
    finally:
        ranker.train()
    bad: list[int] = (~torch.cat(found).isfinite()).any(dim=1).nonzero().flatten().tolist()
    return bad if len(bad) < len(batch) else []


def _by_file(rows: Sequence[tuple[str, int]]) -> list[tuple[str, list[int]]]:
    return [(file, [row for _, row in group]) for file, group in groupby(rows, key=lambda row: row[0])]
