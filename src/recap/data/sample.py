"""Samples of the rows of a data set, spread over its files, with their tables."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TypeVar

import pyarrow as pa

from recap.data.batch import Batch
from recap.data.coverage import Coverage
from recap.data.formats.format import Chunk
from recap.data.stream.source import Source
from recap.errors import DataError

Item = TypeVar("Item")

MAX_ROWS = 50_000
"""Rows of a sample."""
_MAX_BYTES = 128 << 20
"""Memory of the batches of a sample."""
_CHUNKS = 8
"""Chunks that they come from if there are more rows."""
_MAX_SMALL_CHUNKS = 200
"""Chunks that are read completely if they have no more rows in all."""


def sampled_chunks(chunks: Sequence[Chunk]) -> list[tuple[Chunk, int]]:
    """The chunks to sample, each with the number of its rows to take.

    All rows if they are few; else a few chunks, spread evenly, of each file at most one if there are several: from the
    first chunk of the first file to the last one of the last, for rows are often in the order of time.
    """
    if len(chunks) <= _MAX_SMALL_CHUNKS and sum(chunk.rows for chunk in chunks) <= MAX_ROWS:
        return [(chunk, chunk.rows) for chunk in chunks]
    files: dict[str, list[Chunk]] = {}
    for chunk in chunks:
        files.setdefault(chunk.file, []).append(chunk)
    groups = _spread(list(files.values()))
    chosen = (
        _spread(groups[0])
        if len(groups) == 1
        else [group[index * (len(group) - 1) // (len(groups) - 1)] for index, group in enumerate(groups)]
    )
    return [(chunk, MAX_ROWS // len(chosen)) for chunk in chosen]


def _spread(items: list[Item]) -> list[Item]:
    """At most `_CHUNKS` of the items, from the first to the last."""
    if len(items) <= _CHUNKS:
        return items
    return [items[index * (len(items) - 1) // (_CHUNKS - 1)] for index in range(_CHUNKS)]


def first_rows(table: pa.Table, count: int) -> pa.Table:
    """At most `count` rows, copied, so that the memory of the others is freed."""
    return table if table.num_rows <= count else table.take(pa.array(range(count)))


def spread_rows(table: pa.Table, count: int) -> pa.Table:
    """At most `count` rows, spread evenly, for rows are often in the order of time; copied as in `first_rows`."""
    if table.num_rows <= count:
        return table
    return table.take(pa.array([index * table.num_rows // count for index in range(count)]))


def sampled_coverage(source: Source) -> Coverage:
    """The coverage of some rows of `source`, with unknown and missing values apart; unreadable chunks are left out."""
    coverage = Coverage(source.encoder)
    for batch, table in _samples(source, 1.0):
        coverage.add(batch, table)
    return coverage


def sampled_batches(source: Source) -> list[Batch]:
    """The same rows as batches, a batch for each chunk; fewer if they would take more than 128 MiB.

    They are the same for the same files, on every rank.
    """
    return [batch for batch, _ in sampled_rows(source)]


SampledRows = Sequence[tuple[Batch, pa.Table]]
"""Batches, each with the table it was encoded from."""


def sampled_rows(source: Source) -> Iterator[tuple[Batch, pa.Table]]:
    """As `sampled_batches`, with the tables of the batches."""
    return _samples(source, _share_that_fits(source))


def _share_that_fits(source: Source) -> float:
    return min(_MAX_BYTES / max(MAX_ROWS * source.encoder.row_bytes, 1), 1.0)


def _samples(source: Source, share: float) -> Iterator[tuple[Batch, pa.Table]]:
    """Rows of the sampled chunks, or a share of them, without unreadable chunks."""
    for chunk, rows in sampled_chunks(source.chunks):
        with suppress(DataError):
            table = source.loader.format.read(chunk.file, chunk.number, source.encoder.columns)
            table = spread_rows(table, max(int(rows * share), 1))
            yield source.encoder.encode(table, chunk.location()), table
