"""The stream of batches. Its state is one row number, and the names of the bad data it has skipped.

The rows of all epochs form one endless sequence; batch k holds rows k·B … (k+1)·B - 1 of it, so a batch may start in
one epoch and end in the next. Skipped rows count in the sequence, and a batch takes the rows after them instead.
Threads read the next windows while one is in use. Each rank gets its share of every batch; the row number is the same
on all ranks and for any world size.
"""

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from recap.data.batch import Batch, Selection, assemble, cut
from recap.data.stream.downsampling import NegativeSampler
from recap.data.stream.readers import Readers
from recap.data.stream.shuffle import RowOrder, Window
from recap.data.stream.source import BadData, Source
from recap.distributed import ALONE, Ranks
from recap.errors import DataError
from recap.reporting import Say, say_to_stderr

_MAX_BATCHES = 8
"""Up to this many chunks per window, batches are gathered from the chunks; above, joining them first is faster."""


@dataclass(frozen=True)
class ShuffledWindow:
    """The rows of a window that are not used yet, and their order."""

    batches: Sequence[Batch]
    """All good rows of the window, in file order."""
    order: npt.NDArray[np.int64] | range
    """[N] indices into the concatenated batches, in the order of use."""
    ends: npt.NDArray[np.int64] | range
    """[N] the row number of the stream after each of these rows."""
    bad_data: Sequence[BadData]
    rows: int
    """Rows left of the window, including bad ones."""

    def take(self, start: int, count: int) -> Iterator[Selection]:
        """Rows `start` to `start + count` of the order, by batch, and in file order within each."""
        indices = self.order[start : start + count]
        if not isinstance(indices, range):
            indices = np.sort(indices)
        first = 0
        for batch in self.batches:
            last = first + len(batch)
            if isinstance(indices, range):
                rows = slice(max(indices.start, first) - first, min(indices.stop, last) - first)
                if rows.start < rows.stop:
                    yield batch, rows
            else:
                begin, end = np.searchsorted(indices, (first, last))
                if begin < end:
                    yield batch, indices[begin:end] - first
            first = last


class BatchStream:
    """An iterator of batches, or of a rank's share of each, whose position can be saved and restored exactly."""

    def __init__(
        self,
        source: Source,
        order: RowOrder,
        readers: Readers,
        batch_rows: int,
        *,
        epochs: int | None,
        keep_partial: bool = False,
        sampler: NegativeSampler | None = None,
        budget: int = 0,
        say: Say = say_to_stderr,
        ranks: Ranks = ALONE,
    ) -> None:
        """`batch_rows`: of all ranks together. `epochs`: None repeats forever.

        `keep_partial`: also return a last batch of fewer rows. `budget`: how many bad parts of the data may be skipped;
        each is reported to `say`.
        """
        self.source = source
        self.order = order
        self.readers = readers
        self.batch_rows = batch_rows
        self.epochs = epochs
        self.keep_partial = keep_partial
        self.sampler = sampler
        self.budget = budget
        self.say = say
        self.ranks = ranks
        self.row = self.batch_start = 0
        self.skipped: list[str] = []

    @property
    def epoch(self) -> float:
        """Epochs done, including a fraction of the current one."""
        return self.row / self.order.rows

    @property
    def cache_bytes(self) -> int:
        """Bytes that the cache will hold after an epoch; 0 without one."""
        return self.order.rows * self.source.encoder.row_bytes if self.readers.caches else 0

    @property
    def rows_left(self) -> int | None:
        """Rows up to the end, including bad ones; None if there is no end."""
        return None if self.epochs is None else max(0, self.epochs * self.order.rows - self.row)

    @property
    def ended(self) -> bool:
        """Whether all rows are read."""
        return self.rows_left == 0

    def state_dict(self) -> dict[str, Any]:
        """The next row number, a summary of the files it refers to, and the names of skipped bad data."""
        return {"row": self.row, "files": self.source.contents, "skipped": list(self.skipped)}

    def load_state_dict(self, state: dict[str, Any], *, accept_changes: bool = False) -> None:
        """Go to a saved position. Raises DataError if the files have changed since.

        `accept_changes`: go to the same row of the same epoch of the present files instead.
        """
        changes = self.source.changes(state["files"])
        if changes and not accept_changes:
            shown = "\n  ".join([*changes[:10], *([f"and {len(changes) - 10} more"] if len(changes) > 10 else [])])
            raise DataError(
                f"the data files have changed since the checkpoint:\n  {shown}\n"
                "Restore the old files, pass --accept-changed-data to continue with these, or start a new run "
                "with another training.save_dir (training.initial_checkpoint_dir can warm-start it)."
            )
        self.row, self.skipped = int(state["row"]), list(state["skipped"])
        if changes:
            before = sum(int(content.split(" ")[0]) for content in state["files"].values() if content != "bad")
            epoch, row = divmod(self.row, before)
            self.row = epoch * self.order.rows + min(row, self.order.rows)

    @property
    def batch_range(self) -> list[int]:
        """[start, end) row numbers of the last batch."""
        return [self.batch_start, self.row]

    def last_rows(self) -> list[tuple[str, int]]:
        """(file, row in the file from 0) of each row of the last batch, in order; before any sampling.

        Computed from the row number, so that the stream need not remember rows.
        """
        skipped = set(self.skipped)
        rows: list[tuple[str, int]] = []
        for window, skip in self._plan(self.batch_start):
            first = window.epoch * self.order.rows + window.first_row
            if first >= self.row:
                break
            positions = np.sort(self.order.permutation(window)[skip : self.row - first])
            start = 0
            for chunk in (self.source.chunks[index] for index in window.chunks):
                begin, end = np.searchsorted(positions, (start, start + chunk.rows))
                numbers = (positions[begin:end] - start + chunk.first_row).tolist()
                rows += [(chunk.file, row) for row in numbers if not self.source.skippable_names(chunk, row) & skipped]
                start += chunk.rows
        return rows

    def restarted(self) -> "BatchStream":
        """The same stream from its first row."""
        stream = copy(self)  # shares `skipped`, so that bad data is reported once
        stream.row = 0
        return stream

    def __iter__(self) -> Generator[Batch, None, None]:
        """Batches from the current position on; the position advances as each is returned."""
        self._skip_bad_data(self.source.bad_data)
        wanted = self.batch_rows if self.sampler is None else self.sampler.read_rows
        missing, selections = wanted, list[Selection]()
        bad_rows = 0  # in a row
        for window in self._windows():
            self._skip_bad_data(window.bad_data)
            bad_rows = 0 if len(window.ends) else bad_rows + window.rows
            if bad_rows >= self.order.rows:
                raise DataError(f"{self.source.files[0]} and the other files of the same inputs: every row is bad")
            start = 0
            while start < len(window.ends):
                count = min(missing, len(window.ends) - start)
                selections += window.take(start, count)
                start += count
                missing -= count
                if missing == 0:
                    yield self._batch(selections, wanted, int(window.ends[start - 1]))
                    missing, selections = wanted, []
        assert self.epochs is not None
        end = self.epochs * self.order.rows
        if selections and self.keep_partial:
            yield self._batch(selections, wanted - missing, end)
        self.row = end

    def _batch(self, selections: list[Selection], rows: int, end: int) -> Batch:
        """This rank's share of a batch of `rows` selected rows; the position moves to `end`."""
        if self.sampler is None:
            batch = assemble(cut(selections, self.ranks.share(rows)))
        else:
            sampled = self.sampler(assemble(selections), self.row)
            batch = sampled.rows(self.ranks.share(len(sampled)))
        self.batch_start, self.row = self.row, end
        return batch

    def _skip_bad_data(self, bad_data: Sequence[BadData]) -> None:
        """Report bad data that was not skipped before. Raises DataError beyond the budget."""
        for bad in bad_data:
            name = self.source.name_of(bad)
            if name in self.skipped:
                continue
            if len(self.skipped) >= self.budget:
                raise DataError(
                    f"{bad.text}\n{self.budget:,} bad parts of the data were skipped before, which is the limit "
                    "(on_bad_data.budget); fix the data, or raise the budget"
                )
            self.skipped.append(name)
            self.say(f"skipped ({len(self.skipped):,} of at most {self.budget:,}): {bad.text}")

    def _windows(self) -> Iterator[ShuffledWindow]:
        """Windows from the current position on."""
        threads = ThreadPoolExecutor(self.readers.count, thread_name_prefix="recap-reader")
        try:
            ahead: deque[Future[ShuffledWindow]] = deque()
            for window, skip in self._plan(self.row):
                ahead.append(threads.submit(self._load, window, skip))
                if len(ahead) > self.readers.count:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            threads.shutdown(wait=False, cancel_futures=True)  # do not wait for data that never comes

    def _plan(self, row: int) -> Iterator[tuple[Window, int]]:
        """Windows from row number `row` on, and how many rows of each were already used."""
        epoch, row = divmod(row, self.order.rows)
        while self.epochs is None or epoch < self.epochs:
            for window in self.order.windows(epoch):
                skip = max(0, row - window.first_row)
                if skip < window.rows:
                    yield window, skip
            epoch, row = epoch + 1, 0

    def _load(self, window: Window, skip: int) -> ShuffledWindow:
        """Read a window, and order its rows, without bad rows and the first `skip` of the order."""
        loaded = self.readers.load([self.source.chunks[index] for index in window.chunks])
        batches = loaded.batches
        if len(batches) > _MAX_BATCHES:
            batches = [assemble([(batch, slice(None)) for batch in batches])]
        first = window.epoch * self.order.rows + window.first_row
        if loaded.mask is None:
            ends = range(first + skip + 1, first + window.rows + 1)
            rows = self.order.permutation(window)[skip:] if self.order.window_rows else range(skip, window.rows)
            return ShuffledWindow(batches, rows, ends, (), window.rows - skip)
        # The index of each row of the window among the good rows; -1 for bad ones.
        index = np.where(loaded.mask, np.cumsum(loaded.mask) - 1, -1)[self.order.permutation(window)]
        good = np.flatnonzero(index >= 0)
        good = good[good >= skip]
        return ShuffledWindow(batches, index[good], first + good + 1, loaded.bad_data, window.rows - skip)
