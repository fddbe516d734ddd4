"""Parts of a stream in the order of its files: each rank reads other chunks, and all together read every row."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from recap.data.batch import Selection, slice_selections
from recap.data.stream.batch_stream import BatchStream
from recap.data.stream.source import BadData, ChunkRows

PART_ROWS = 65_536
"""Rows of a part, at least; few enough that its scores take little memory, and many for one message."""


class Piece(NamedTuple):
    """The rows of one chunk that belong to a part."""

    selections: Sequence[Selection]
    """The good rows, in order; empty if there are none."""
    rows: int
    """Their number."""
    bad_data: Sequence[BadData]
    """Of the whole chunk."""
    ends_part: bool


def plan_parts(chunk_rows: Sequence[int], begin: int, end: int, world_size: int) -> list[list[range]]:
    """Rounds of consecutive parts of the rows `begin` to `end - 1`, of which each rank takes one per round.

    Parts end where chunks end, so that each chunk is read by one rank; only the last round, which has fewer rows, is
    divided evenly by rows. A part has about `PART_ROWS` rows, or those of the largest chunk.
    """
    ends = np.cumsum([0, *chunk_rows])
    largest = max(chunk_rows, default=1)
    size = largest * -(-PART_ROWS // max(largest, 1))
    rounds: list[list[range]] = []
    while begin < end:
        if end - begin >= world_size * size:
            wanted = begin + size * np.arange(1, world_size + 1)
            nearest = ends[np.abs(ends[:, None] - wanted).argmin(axis=0)]
            bounds = [begin, *np.minimum(nearest, end).tolist()]
        else:
            bounds = [begin + (end - begin) * rank // world_size for rank in range(world_size + 1)]
        rounds.append([range(first, last) for first, last in pairwise(bounds)])
        begin = bounds[-1]
    return rounds


def read_parts(stream: BatchStream, parts: Sequence[range]) -> Iterator[Piece]:
    """The pieces of each part, read ahead in threads. `parts`: row numbers in the files of `stream`, ascending.

    A part without rows has one piece. Raises DataError for bad data, unless the stream skips it.
    """
    threads = ThreadPoolExecutor(stream.readers.count, thread_name_prefix="recap-reader")
    try:
        ahead: deque[tuple[Future[ChunkRows] | None, slice, bool]] = deque()
        for chunk, rows, ends_part in _chunks_of(stream, parts):
            future = None if chunk is None else threads.submit(stream.readers.load, [stream.source.chunks[chunk]])
            ahead.append((future, rows, ends_part))
            if len(ahead) > stream.readers.count:
                yield _piece(*ahead.popleft())
        while ahead:
            yield _piece(*ahead.popleft())
    finally:
        threads.shutdown(wait=False, cancel_futures=True)  # do not wait for reads that may never end


def _chunks_of(stream: BatchStream, parts: Sequence[range]) -> Iterator[tuple[int | None, slice, bool]]:
    """The number of each chunk of each part, which of its rows belong to the part, and whether it is the last one."""
    ends = np.cumsum([0, *stream.order.chunk_rows])
    for part in parts:
        if not part:
            yield None, slice(0, 0), True
            continue
        first, last = np.searchsorted(ends, part.start, side="right") - 1, np.searchsorted(ends, part.stop)
        for chunk in range(int(first), int(last)):
            start = int(ends[chunk])
            size = stream.order.chunk_rows[chunk]
            rows = slice(max(part.start - start, 0), min(part.stop - start, size))
            yield chunk, rows, chunk == last - 1


def _piece(future: Future[ChunkRows] | None, rows: slice, ends_part: bool) -> Piece:
    if future is None:
        return Piece((), 0, (), ends_part)
    loaded = future.result()
    if loaded.mask is not None:  # the row numbers count bad rows too
        good = np.concatenate([[0], np.cumsum(loaded.mask)])
        rows = slice(int(good[rows.start]), int(good[rows.stop]))
    count = rows.stop - rows.start
    whole = [(batch, slice(None)) for batch in loaded.batches]
    return Piece(slice_selections(whole, rows) if count else (), count, loaded.bad_data, ends_part)
