"""Scores that depend on the row alone, bit for bit: not on its place in a batch, nor on the rows beside it.

A sum in another order differs by about 1e-7, which is enough to break the ties that ranking metrics count. A matrix
library chooses the order by the number of rows, by the place of a row and by the number of threads; torch computes
the last elements of a tensor, or of the part of a thread, with other instructions. Therefore:

- On a CPU, a forward pass runs on one thread, over a multiple of `ALIGNMENT` rows. Products (`layers.affine` and
  `layers.product`) are computed as (W·xᵀ)ᵀ, which puts rows into the lanes of vector registers, where all are treated
  alike. Several threads share a batch by rows.
- On a GPU, a forward pass takes `BLOCK` rows, since the choice of kernel depends on their number.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import cache, partial
from typing import TypeVar

import torch
from torch import Tensor

from recap.data.batch import Batch
from recap.model.layers import rows_in_lanes
from recap.model.scorer import Scorer, Scores

ALIGNMENT = 64
"""Rows; a multiple of what a vector loop handles in one step."""
BLOCK = 1024
"""Rows per forward pass on a GPU."""
Result = TypeVar("Result")
_MIN_SHARE = 256
"""Rows from which another thread helps."""


def score_rows(scorer: Scorer, batch: Batch) -> Scores:
    """The scores of the rows of `batch`, without gradients.

    With sharded tables a rank waits for the others in a forward pass, so there is one, whatever the number of rows.
    """
    rows = len(batch)
    if scorer.ranker.inputs.embeddings.is_sharded:
        multiple = row_multiple(batch.continuous.device)
        return in_lanes(lambda: _score(scorer, batch, -(-max(rows, 1) // multiple) * multiple), batch.continuous.device)
    if batch.continuous.is_cuda:
        starts = range(0, max(rows, 1), BLOCK)
        return _joined([_score(scorer, batch.rows(slice(start, start + BLOCK)), BLOCK) for start in starts])
    threads = torch.get_num_threads()
    share = -(-rows // min(threads, max(rows // _MIN_SHARE, 1)))
    size = max(-(-share // ALIGNMENT), 1) * ALIGNMENT
    if threads == 1:
        return _score_in_lanes(scorer, batch)
    parts = [batch.rows(slice(start, start + size)) for start in range(0, max(rows, 1), size)]
    torch.set_num_threads(1)  # of this thread, and of the matrix library in all threads
    try:
        return _joined(list(_workers(threads).map(partial(_score_in_lanes, scorer), parts)))
    finally:
        torch.set_num_threads(threads)


def row_multiple(device: torch.device) -> int:
    """The results for a row depend on it alone if `device` computes them with a multiple of this number of rows."""
    return BLOCK if device.type == "cuda" else ALIGNMENT


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute without gradients, on one thread, so that no tensor is cut between threads."""
    threads = torch.get_num_threads()
    if threads > 1:
        torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            yield
    finally:
        if threads > 1:
            torch.set_num_threads(threads)


def in_lanes(function: Callable[[], Result], device: torch.device) -> Result:
    """The result of `function`, with products of rows in the lanes of vector registers; on a GPU as it is."""
    with nullcontext() if device.type == "cuda" else rows_in_lanes():
        return function()


def _score_in_lanes(scorer: Scorer, batch: Batch) -> Scores:
    with rows_in_lanes():
        return _score(scorer, batch, max(-(-len(batch) // ALIGNMENT), 1) * ALIGNMENT)


def _score(scorer: Scorer, batch: Batch, rows: int) -> Scores:
    """The scores of `batch`, computed with rows of zeros up to `rows` rows."""
    count = len(batch)
    with torch.inference_mode():
        return Scores(*(column[:count] for column in _columns(scorer(batch.padded(rows)))))


def _joined(parts: Sequence[Scores]) -> Scores:
    return Scores(*map(torch.cat, zip(*map(_columns, parts), strict=True)))


def _columns(scores: Scores) -> tuple[Tensor, ...]:
    return scores.logits, scores.probabilities, scores.calibrated_probabilities, scores.score


@cache
def _workers(threads: int) -> ThreadPoolExecutor:
    """A pool of `threads` threads in each of which torch uses one thread."""
    return ThreadPoolExecutor(threads, "score", initializer=torch.set_num_threads, initargs=(1,))
