"""`TableFiles`: reads the tables of files of any format, ahead in threads."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from itertools import chain
from typing import Self, TypeVar

import pyarrow as pa

from recap.config.data import SourceConfig
from recap.data.formats.files import find_files
from recap.data.formats.format import Chunk, ColumnTypes, list_chunks
from recap.data.formats.open import guess_source, open_format
from recap.errors import DataError

_THREADS = 2
_CHUNKS_AHEAD = 2
"""Chunks in memory besides the one in use."""

Item = TypeVar("Item")
Result = TypeVar("Result")

_Listing = Chunk | DataError | None
"""A chunk to read, an error to raise in order, or the end of a file."""
_Read = tuple[Chunk | None, pa.Table]
"""A chunk and its rows; (None, None) at the end of a file."""


class TableFiles:
    """Files of one format, in the order of `files`."""

    def __init__(self, files: Sequence[str], source: SourceConfig, types: ColumnTypes | None = None) -> None:
        """`files`: the files of `source`. `types`: column → type, for formats that do not store types."""
        self.files = list(files)
        self.source = source
        self.format = open_format(source, types or {}, files)

    @classmethod
    def open(cls, inputs: Sequence[str], schema_path: str | None = None, types: ColumnTypes | None = None) -> Self:
        """The files that globs match; the extension of the first decides the format.

        `schema_path`: the JSON file that lists the columns of TFRecord files. Raises DataError if a glob matches no
        file.
        """
        files = find_files(inputs)
        return cls(files, guess_source(files[0], inputs, schema_path), types)

    def schema(self, file: str) -> pa.Schema:
        """The columns of a file. Raises DataError."""
        return self.format.schema(file)

    def chunks(self) -> list[Chunk]:
        """The chunks of all files. Raises DataError."""
        return [chunk for file in self.files for chunk in list_chunks(self.format, file)]

    def tables(
        self, columns: Sequence[str] | None = None, chunks: Sequence[Chunk] | None = None
    ) -> Iterator[tuple[Chunk, pa.Table]]:
        """Each chunk with its rows, in order; default: the chunks of all files, with all columns of each file.

        Raises DataError at a chunk or file that cannot be read, after the chunks before it.
        """
        with closing(self._read_ahead(self.files, columns, chunks)) as reads:
            for chunk, table in reads:
                if chunk is not None:
                    yield chunk, table

    def tables_by_file(
        self, columns: Sequence[str] | None = None, files: Sequence[str] | None = None
    ) -> Iterator[tuple[str, Iterator[tuple[Chunk, pa.Table]]]]:
        """Each file (default: all), also without rows, with its chunks and their rows as in `tables`.

        Consume the tables of a file before asking for the next file.
        """
        chosen = self.files if files is None else files
        with closing(self._read_ahead(chosen, columns)) as reads:
            for file in chosen:
                yield file, _until_end(reads)

    def _read_ahead(
        self, files: Sequence[str], columns: Sequence[str] | None, chunks: Sequence[Chunk] | None = None
    ) -> Generator[_Read, None, None]:
        """Read `chunks`; default: the chunks of `files`, with the end of each file after its chunks."""
        pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="recap-tables")
        try:
            listings: Iterable[_Listing] = chunks or ()
            if chunks is None:
                listings = chain.from_iterable(_map_ahead(pool, self._list, files, 1))
            yield from _map_ahead(pool, partial(self._read, columns), listings, _CHUNKS_AHEAD)
        finally:
            pool.shutdown(cancel_futures=True)

    def _list(self, file: str) -> list[_Listing]:
        """The chunks of a file and its end, or the error that prevents listing them."""
        try:
            return [*list_chunks(self.format, file), None]
        except DataError as error:
            return [error]

    def _read(self, columns: Sequence[str] | None, listing: _Listing) -> _Read:
        if isinstance(listing, DataError):
            raise listing
        if listing is None:
            return None, None
        names = self.schema(listing.file).names if columns is None else columns
        return listing, self.format.read(listing.file, listing.number, names)


def _until_end(reads: Iterator[_Read]) -> Iterator[tuple[Chunk, pa.Table]]:
    for chunk, table in reads:
        if chunk is None:
            return
        yield chunk, table


def _map_ahead(
    pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item], count: int
) -> Iterator[Result]:
    """The results of `function` for `items`, in order; `pool` computes up to `count` of them ahead."""
    futures: deque[Future[Result]] = deque()
    for item in items:
        futures.append(pool.submit(function, item))
        if len(futures) > count:
            yield futures.popleft().result()
    while futures:
        yield futures.popleft().result()
