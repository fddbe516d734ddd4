"""`Source`: the files of a data set as one list of chunks. `Loader`: reads chunks into batches; may skip bad data."""

import os
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from recap.config.data import SourceConfig
from recap.data.batch import Batch
from recap.data.encoding.encoder import RowEncoder
from recap.data.formats.files import LISTERS, find_files, relative_names
from recap.data.formats.format import Chunk, Format, list_chunks, no_rows, read_chunk
from recap.data.formats.object_stores import is_remote
from recap.data.formats.open import open_format
from recap.errors import DataError


class BadData(NamedTuple):
    """A part of a file that cannot be read and is skipped."""

    file: str
    part: str
    """`row 17`, `part 3` (a chunk) or `from row 17`; empty for the whole file. Checkpoints store it."""
    text: str
    """The error message, with its location."""


class ChunkRows(NamedTuple):
    """The good rows of some chunks."""

    batches: list[Batch]
    """The good rows, in order; each batch holds one or more chunks."""
    mask: npt.NDArray[np.bool_] | None = None
    """[N] which of the N rows of the chunks are good; None: all."""
    bad_data: tuple[BadData, ...] = ()


@dataclass(frozen=True, eq=False)
class Loader:
    """Reads chunks into batches; can be sent to another process."""

    config: SourceConfig
    encoder: RowEncoder
    skip: bool
    """Whether bad rows and chunks are skipped and reported instead of raised."""

    def __reduce__(self) -> tuple[type["Loader"], tuple[Any, ...]]:
        return Loader, (self.config, self.encoder, self.skip)  # without `format`, which is opened again

    @cached_property
    def format(self) -> Format:
        """The reader of the files."""
        return open_format(self.config, self.encoder.types)

    def load(self, chunks: Sequence[Chunk]) -> ChunkRows:
        """The rows of some chunks, concatenated. Raises DataError for bad data, unless `skip` is set."""
        return join([self._load(chunk) for chunk in chunks])

    def _load(self, chunk: Chunk) -> ChunkRows:
        bad_rows: list[int] = []
        bad_data: list[BadData] = []
        while True:
            try:
                table = read_chunk(self.format, chunk, self.encoder.columns, bad_rows)
                rows = self.encoder.encode(table, chunk.location(bad_rows))
                break
            except DataError as error:
                if not self.skip:
                    raise
                more_bad_rows = sorted(set(error.rows) - set(bad_rows))
                if not more_bad_rows:
                    mask = np.zeros(chunk.rows, bool)
                    bad_chunk = BadData(chunk.file, f"part {chunk.number}", str(error))
                    return ChunkRows([self.encoder.empty()], mask, (bad_chunk,))
                bad_rows = sorted([*bad_rows, *more_bad_rows])
                bad_data += _bad_rows(chunk, more_bad_rows, error)
        if not bad_rows:
            return ChunkRows([rows])
        mask = np.ones(chunk.rows, bool)
        mask[bad_rows] = False
        return ChunkRows([rows], mask, tuple(bad_data))


def _bad_rows(chunk: Chunk, rows: Sequence[int], error: DataError) -> Iterator[BadData]:
    """One `BadData` per row; the message of `error` describes its first row."""
    for row in rows:
        number = chunk.first_row + row
        text = str(error) if row == error.rows[0] else f"{chunk.file}: row {number}: the same error"
        yield BadData(chunk.file, f"row {number}", text)


def join(parts: Sequence[ChunkRows]) -> ChunkRows:
    """Concatenate `ChunkRows`."""
    batches = [batch for part in parts for batch in part.batches]
    if all(part.mask is None for part in parts):
        return ChunkRows(batches)
    masks = [np.ones(sum(map(len, part.batches)), bool) if part.mask is None else part.mask for part in parts]
    return ChunkRows(batches, np.concatenate(masks), tuple(bad for part in parts for bad in part.bad_data))


class Source:
    """The chunks of the files that `config.inputs` match, by default in the order of the file names."""

    def __init__(self, config: SourceConfig, encoder: RowEncoder, *, skip: bool = False, interleave: int = 1) -> None:
        """List the chunks of every file, and check its columns against `encoder`. Raises DataError.

        `skip`: skip bad data instead of raising. `interleave`: how many files to take chunks from in turn.
        """
        self.files = find_files(config.inputs)[: config.num_files_to_keep]
        self.loader = Loader(config, encoder, skip)
        self.names = dict(zip(self.files, relative_names(self.files, config.inputs), strict=True))
        self.bad_data: list[BadData] = []
        self.contents: dict[str, str] = {}
        chunks: list[Chunk] = []
        for name, (file_chunks, bad_data) in zip(self.names.values(), self._list_files(), strict=True):
            chunks += file_chunks
            self.bad_data += bad_data
            self.contents[name] = _content(file_chunks) if file_chunks or not bad_data else "bad"
        if not chunks:
            raise no_rows(self.files, self.bad_data[0].text if self.bad_data else None)
        self.chunks = list(_interleaved(chunks, interleave))

    @property
    def encoder(self) -> RowEncoder:
        """The encoder of the rows."""
        return self.loader.encoder

    def _list_files(self) -> Iterator[tuple[list[Chunk], list[BadData]]]:
        """The chunks and the bad data of each file, listed in a thread per CPU or, for object stores, `LISTERS`."""
        count = LISTERS if any(map(is_remote, self.files)) else os.cpu_count()
        listers = ThreadPoolExecutor(count, thread_name_prefix="recap-lister")
        try:
            yield from listers.map(self._list_file, self.files)
        finally:
            listers.shutdown(wait=False, cancel_futures=True)  # do not wait for a file that may never open

    def _list_file(self, file: str) -> tuple[list[Chunk], list[BadData]]:
        format_ = self.loader.format
        try:
            chunks = list_chunks(format_, file, allow_torn=self.loader.skip)
            if chunks:  # the columns of a file without rows may have any type, or be unknown
                self.encoder.check(format_.schema(file), file)
        except DataError as error:
            if not self.loader.skip:
                raise
            return [], [BadData(file, "", str(error))]
        torn = format_.torn_end(file)
        end = sum(chunk.rows for chunk in chunks)
        return chunks, [] if torn is None else [BadData(file, f"from row {end}", str(torn))]

    def name_of(self, bad: BadData) -> str:
        """A name of bad data that stays the same if the files move to another folder."""
        return ", ".join(filter(None, (self.names[bad.file], bad.part)))

    def bad_names(self, chunk: Chunk, row: int) -> set[str]:
        """The names under which row `row` of the file, in `chunk`, may be skipped: that of the chunk, or its own."""
        return {self.name_of(BadData(chunk.file, part, "")) for part in (f"part {chunk.number}", f"row {row}")}

    def changes(self, contents: dict[str, str]) -> list[str]:
        """The differences from the `contents` of an earlier source, one line per file."""
        gone = [f"{name} is gone" for name in contents if name not in self.contents]
        new = [f"{name} is new" for name in self.contents if name not in contents]
        other = [
            f"{name} was {_shown(contents[name])}, is {_shown(content)}"
            for name, content in self.contents.items()
            if contents.get(name, content) != content
        ]
        return [*other, *gone, *new]


def _content(chunks: Sequence[Chunk]) -> str:
    """A summary of a file, which changes with its rows, chunks and size. Checkpoints store it."""
    rows = [chunk.rows for chunk in chunks]
    size = chunks[0].stamp[1] if chunks else 0
    return f"{sum(rows)} rows in {len(rows)} parts ({sha256(repr(rows).encode()).hexdigest()[:8]}), {size} bytes"


def _shown(content: str) -> str:
    """`_content` for a message: 1 part, not 1 parts."""
    return re.sub(r"\b1 (row|part|byte)s\b", r"1 \1", content)


def _interleaved(chunks: Iterable[Chunk], files: int) -> Iterator[Chunk]:
    """One chunk of each of `files` files in turn; when a file ends, the next one takes its turn."""
    waiting = deque(deque(group) for _, group in groupby(chunks, lambda chunk: chunk.file))
    opened = deque(waiting.popleft() for _ in range(min(files, len(waiting))))
    while opened:
        queue = opened.popleft()
        yield queue.popleft()
        if queue:
            opened.append(queue)
        elif waiting:
            opened.append(waiting.popleft())
