"""`TableFiles`: reads the tables of files of any format, ahead in threads."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial
from itertools import chain
from typing import Self, TypeVar

import pyarrow as pa

from recap.config.data import SourceConfig
from recap.data.formats.files import find_files
from recap.data.formats.format import Chunk, ColumnTypes, Format, list_chunks, no_rows, read_chunk
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
    """Files of one or more formats, in the order of `files`."""

    def __init__(
        self, sources: Mapping[str, SourceConfig], types: ColumnTypes | None = None, *, allow_torn: bool = False
    ) -> None:
        """`sources`: each file with the config of its format. `types`: column → type, for formats that store none.

        `allow_torn`: of a file whose end is damaged, read the rows before; otherwise that is an error.
        """
        self.files = list(sources)
        self._sources = dict(sources)
        self._allow_torn = allow_torn
        readers: dict[str, Format] = {}
        for source in self._sources.values():
            if _key(source) not in readers:
                readers[_key(source)] = open_format(source, types or {})
        self._chunks: dict[str, list[Chunk]] = {}
        self._formats = {file: readers[_key(source)] for file, source in self._sources.items()}

    @classmethod
    def open(
        cls,
        inputs: Sequence[str],
        schema_path: str | None = None,
        types: ColumnTypes | None = None,
        like: SourceConfig | None = None,
        null_values: Sequence[str] = (),
    ) -> Self:
        """The files that globs match, each of the format that its extension says.

        `schema_path`: the JSON file that lists the columns of TFRecord files. `like`: a source whose CSV files have the
        same delimiter and null values. `null_values`: more texts that mean null in CSV. Raises DataError if a glob
        matches no file, InputError for null values in files that are not CSV.
        """
        files = find_files(inputs)
        return cls({file: guess_source(file, inputs, schema_path, like, null_values) for file in files}, types)

    @property
    def source(self) -> SourceConfig:
        """The source config of all files. Raises DataError if they are of several formats."""
        first, *others = self.files
        for file in others:
            if _key(self._sources[file]) != _key(self._sources[first]):
                raise DataError(
                    f"{first} and {file} are of different formats ({self.format_of(first).name} and "
                    f"{self.format_of(file).name}), but the source of a configuration has one; convert one of them"
                )
        return self._sources[first]

    @property
    def format(self) -> Format:
        """The reader of the first file, which is that of all files of one format."""
        return self._formats[self.files[0]]

    @property
    def format_names(self) -> str:
        """The formats of the files, such as `Parquet, CSV and TFRecord`."""
        names = list(dict.fromkeys(format_.name for format_ in self._formats.values()))
        return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))

    def format_of(self, file: str) -> Format:
        """The reader of a file."""
        return self._formats[file]

    def schema(self, file: str) -> pa.Schema:
        """The columns of a file.

        A file without rows has those of the first file with rows: its own may have any type, or be unknown. Raises
        DataError if there is none.
        """
        if not self.chunks_of(file):
            file = self._first_with_rows()
        return self.format_of(file).schema(file)

    def _first_with_rows(self) -> str:
        for file in self.files:
            with suppress(DataError):  # it is raised where that file is read
                if self.chunks_of(file):
                    return file
        raise no_rows(self.files)

    def chunks_of(self, file: str) -> list[Chunk]:
        """The chunks of a file that hold rows, listed once. Raises DataError."""
        if file not in self._chunks:
            self._chunks[file] = list_chunks(self.format_of(file), file, allow_torn=self._allow_torn)
        return self._chunks[file]

    def chunks(self) -> list[Chunk]:
        """The chunks of all files. Raises DataError."""
        return [chunk for file in self.files for chunk in self.chunks_of(file)]

    def files_with_rows(self) -> list[str]:
        """The files that hold rows. Raises DataError if there is none."""
        files = [file for file in self.files if self.chunks_of(file)]
        if not files:
            raise no_rows(self.files)
        return files

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
                listings = chain.from_iterable(map_ahead(pool, self._list, files, 1))
            yield from map_ahead(pool, partial(self._read, columns), listings, _CHUNKS_AHEAD)
        finally:
            pool.shutdown(cancel_futures=True)

    def _list(self, file: str) -> list[_Listing]:
        """The chunks of a file and its end, or the error that prevents listing them."""
        try:
            return [*self.chunks_of(file), None]
        except DataError as error:
            return [error]

    def _read(self, columns: Sequence[str] | None, listing: _Listing) -> _Read:
        if isinstance(listing, DataError):
            raise listing
        if listing is None:
            return None, None
        names = self.schema(listing.file).names if columns is None else columns
        return listing, read_chunk(self.format_of(listing.file), listing, names)


def _key(source: SourceConfig) -> str:
    """Equal for sources whose files one reader can read."""
    return source.model_dump_json(exclude={"inputs"})


def _until_end(reads: Iterator[_Read]) -> Iterator[tuple[Chunk, pa.Table]]:
    for chunk, table in reads:
        if chunk is None:
            return
        yield chunk, table


def map_ahead(
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
