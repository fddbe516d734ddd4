"""A sample of the rows of a source, with their tables, which separate unknown values from missing ones."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TypeVar

from recap.data.coverage import Coverage
from recap.data.formats.location import Location
from recap.data.stream.source import Source
from recap.errors import DataError

_CHUNKS = 4
"""Chunks that are sampled, spread evenly over the files."""
ROWS_OF_CHUNK = 20_000
"""Rows that are sampled from one chunk."""

Item = TypeVar("Item")


def sampled_coverage(source: Source) -> Coverage:
    """The coverage of some rows of `source`; chunks that cannot be read are left out."""
    coverage = Coverage(source.encoder)
    for chunk in spread(source.chunks, _CHUNKS):
        with suppress(DataError):
            table = source.loader.format.read(chunk.file, chunk.number, source.encoder.columns)
            table = table.slice(0, ROWS_OF_CHUNK)
            coverage.add(source.encoder.encode(table, Location(chunk.file, chunk.first_row)), table)
    return coverage


def spread(items: Sequence[Item], count: int) -> Iterator[Item]:
    """At most `count` items, spread evenly, with the first and the last."""
    if len(items) <= count:
        yield from items
    else:
        yield from (items[index * (len(items) - 1) // (count - 1)] for index in range(count))
