"""A data set: its files as one list of chunks, and the rows of some; what is bad is passed over where it may be."""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import cached_property
from hashlib import sha256
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recap.config.data import SourceConfig
from recap.data.batch import Batch
from recap.data.encoding.encoder import RowEncoder
from recap.data.formats.files import find_files, relative_names, stamp
from recap.data.formats.filesystem import is_remote
from recap.data.formats.format import Format
from recap.data.formats.location import Location
from recap.data.formats.open import Chunk, chunks_of, open_format
from recap.errors import DataError

_LISTERS = 8
"""Files of a store that are looked at at once."""


class Fault(NamedTuple):
    """A part of a file that is passed over."""

    file: str
    part: str
    """Such as `row 17`; nothing: the whole file."""
    text: str
    """What is wrong with it, with its place."""


class LoadedChunks(NamedTuple):
    """What reading some chunks gave."""

    parts: list[Batch]
    """The rows that are there, of each chunk."""
    kept: npt.NDArray[np.bool_] | None = None
    """Which of the rows of the chunks they are, end to end; none given: all."""
    faults: tuple[Fault, ...] = ()


class Loader:
    """Reads chunks into batches; can be sent to another process."""

    def __init__(self, config: SourceConfig, encoder: RowEncoder, files: Sequence[str], skip: bool) -> None:
        """`files` are all of the data set. `skip`: bad rows and chunks become faults instead of errors."""
        self.config, self.encoder, self.files, self.skip = config, encoder, files, skip

    def __reduce__(self) -> tuple[type["Loader"], tuple[Any, ...]]:
        return Loader, (self.config, self.encoder, self.files, self.skip)  # the other process opens the format anew

    @cached_property
    def format(self) -> Format:
        """What reads the files."""
        return open_format(self.config, self.encoder.types, self.files)

    def load(self, chunks: Sequence[Chunk]) -> LoadedChunks:
        """The rows of some chunks, end to end. Raises DataError where they are bad, unless they are passed over."""
        return join([self._load(chunk) for chunk in chunks])

    def _load(self, chunk: Chunk) -> LoadedChunks:
        without: list[int] = []
        faults: list[Fault] = []
        while True:
            try:
                table = self._read(chunk, without)
                rows = self.encoder.encode(table, Location(chunk.file, chunk.first_row, tuple(without)))
                break
            except DataError as error:
                if not self.skip:
                    raise
                bad = sorted(set(error.rows) - set(without))
                if not bad:
                    nothing = np.zeros(chunk.rows, bool)
                    fault = Fault(chunk.file, f"part {chunk.number}", str(error))
                    return LoadedChunks([self.encoder.empty()], nothing, (fault,))
                without = sorted([*without, *bad])
                faults += _faults(chunk, bad, error)
        if not without:
            return LoadedChunks([rows])
        kept = np.ones(chunk.rows, bool)
        kept[without] = False
        return LoadedChunks([rows], kept, tuple(faults))

    def _read(self, chunk: Chunk, without: Sequence[int]) -> pa.Table:
        _check_unchanged(chunk)
        table = self.format.read(chunk.file, chunk.number, self.encoder.columns, without)
        if table.num_rows + len(without) != chunk.rows:
            found = table.num_rows + len(without)
            raise _changed(chunk.file, f"its part {chunk.number} holds {found} rows instead of {chunk.rows}")
        return table


def _check_unchanged(chunk: Chunk) -> None:
    try:
        time, size = stamp(chunk.file)
    except DataError as error:
        raise _changed(chunk.file, str(error).removeprefix(f"{chunk.file}: ")) from None
    if size != chunk.stamp[1]:
        raise _changed(chunk.file, f"it holds {size:,} bytes instead of {chunk.stamp[1]:,}")
    if time != chunk.stamp[0]:
        raise _changed(chunk.file, f"it was written at {datetime.fromtimestamp(time / 1e9):%Y-%m-%d %H:%M:%S}")


def _changed(file: str, text: str) -> DataError:
    """What is said of a file that is not what it was when the rows were laid in order."""
    advice = "bring the old file back and go on, or start anew"
    return DataError(f"{file}: changed since this job began: {text}; {advice}")


def _faults(chunk: Chunk, rows: Sequence[int], error: DataError) -> Iterator[Fault]:
    """One for each row; the error tells of the first."""
    for row in rows:
        number = chunk.first_row + row
        text = str(error) if row == error.rows[0] else f"{chunk.file}: row {number}: the same"
        yield Fault(chunk.file, f"row {number}", text)


def join(parts: Sequence[LoadedChunks]) -> LoadedChunks:
    """What was loaded of several chunks, as one."""
    batches = [batch for part in parts for batch in part.parts]
    if all(part.kept is None for part in parts):
        return LoadedChunks(batches)
    kept = [np.ones(sum(map(len, part.parts)), bool) if part.kept is None else part.kept for part in parts]
    return LoadedChunks(batches, np.concatenate(kept), tuple(fault for part in parts for fault in part.faults))


class Source:
    """The chunks of the files that `config.inputs` match, in the order of the file names."""

    def __init__(self, config: SourceConfig, encoder: RowEncoder, *, skip: bool = False, interleave: int = 1) -> None:
        """List the chunks and check the columns of every file against `encoder`. Raises DataError.

        `skip`: what is bad becomes a fault. `interleave`: files of which chunks are taken in turn.
        """
        self.files = find_files(config.inputs)[: config.num_files_to_keep]
        self.loader = Loader(config, encoder, self.files, skip)
        self.names = dict(zip(self.files, relative_names(self.files, config.inputs), strict=True))
        self.faults: list[Fault] = []
        self.contents: dict[str, str] = {}
        chunks: list[Chunk] = []
        for name, (found, faults) in zip(self.names.values(), self._looked_at(), strict=True):
            chunks += found
            self.faults += faults
            self.contents[name] = _content(found) if found or not faults else "bad"
        if not chunks:
            why = f": {self.faults[0].text}" if self.faults else ""
            raise DataError(
                f"{self.files[0]} and its sister files ({len(self.files)} in all) hold not a single row{why}"
            )
        self.chunks = list(_interleaved(chunks, interleave))

    def _looked_at(self) -> Iterator[tuple[list[Chunk], list[Fault]]]:
        """What each file holds; of a store, more are looked at at once, for each answer takes long."""
        count = _LISTERS if any(map(is_remote, self.files)) else os.cpu_count()
        listers = ThreadPoolExecutor(count, thread_name_prefix="recap-lister")
        try:
            yield from listers.map(self._look, self.files)
        finally:
            listers.shutdown(wait=False, cancel_futures=True)  # who stops does not wait for a file that never opens

    def _look(self, file: str) -> tuple[list[Chunk], list[Fault]]:
        format_ = self.loader.format
        try:
            self.loader.encoder.check(format_.schema(file), file)
            chunks = chunks_of(format_, file, though_torn=self.loader.skip)
        except DataError as error:
            if not self.loader.skip:
                raise
            return [], [Fault(file, "", str(error))]
        torn = format_.torn_end(file)
        end = sum(chunk.rows for chunk in chunks)
        return chunks, [] if torn is None else [Fault(file, f"from row {end}", str(torn))]

    def unit(self, fault: Fault) -> str:
        """What is passed over, by a name that holds wherever the data lies."""
        return ", ".join(filter(None, (self.names[fault.file], fault.part)))

    def parts(self, chunk: Chunk, row: int) -> set[str]:
        """The names of all that may be passed over and that a row of a chunk, counted in its file, is a part of."""
        return {self.unit(Fault(chunk.file, part, "")) for part in (f"part {chunk.number}", f"row {row}")}

    def changes(self, contents: dict[str, str]) -> list[str]:
        """What differs from the `contents` of another time, a line a file, each by name."""
        gone = [f"{name} is gone" for name in contents if name not in self.contents]
        new = [f"{name} is new" for name in self.contents if name not in contents]
        other = [
            f"{name} was {contents[name]}, is {found}"
            for name, found in self.contents.items()
            if contents.get(name, found) != found
        ]
        return [*other, *gone, *new]


def _content(chunks: Sequence[Chunk]) -> str:
    """What a file holds, in short: as long as nobody changes it, it says the same."""
    rows = [chunk.rows for chunk in chunks]
    size = chunks[0].stamp[1] if chunks else 0
    return f"{sum(rows)} rows in {len(rows)} parts ({sha256(repr(rows).encode()).hexdigest()[:8]}), {size} bytes"


def _interleaved(chunks: Iterable[Chunk], files: int) -> Iterator[Chunk]:
    """Chunks of so many files in turn; where one ends, the next file takes its place."""
    waiting = deque(deque(group) for _, group in groupby(chunks, lambda chunk: chunk.file))
    opened = deque(waiting.popleft() for _ in range(min(files, len(waiting))))
    while opened:
        queue = opened.popleft()
        yield queue.popleft()
        if queue:
            opened.append(queue)
        elif waiting:
            opened.append(waiting.popleft())
