"""The stream of batches. Its state is one row number, and the names of the bad data it has skipped.

The rows of all epochs form one sequence; batch k holds its rows k·B … (k+1)·B - 1, so a batch may start in one epoch
and end in the next. Skipped rows count in the sequence; the rows after them fill the batch. Threads read the next
windows while one is in use. Each rank gets its share of every batch; the row number is the same on all ranks and for
any world size.
"""

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from recap.data.batch import Batch, Selection, assemble, slice_selections
from recap.data.stream.downsampling import NegativeSampler
from recap.data.stream.readers import Readers
from recap.data.stream.shuffle import RowOrder, Window
from recap.data.stream.source import BadData, Source
from recap.distributed import ONE_RANK, Ranks
from recap.errors import DataError
from recap.reporting import Say, say_to_stderr

_MAX_BATCHES = 8
"""With more chunks than this in a window, joining them first is faster than gathering batches from each chunk."""


@dataclass(frozen=True)
class ShuffledWindow:
    """The unused rows of a window, and their order."""

    batches: Sequence[Batch]
    """All good rows of the window, in file order."""
    order: npt.NDArray[np.int64] | range
    """[N] indices of the unused rows in the concatenated batches, in the order of use."""
    ends: npt.NDArray[np.int64] | range
    """[N] the row number of the stream after each unused row."""
    bad_data: Sequence[BadData]
    rows: int
    """The number of unused rows, including bad ones."""

    def take(self, start: int, count: int) -> Iterator[Selection]:
        """Rows `start` to `start + count - 1` of the order, sorted as in the files."""
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
    """Iterates over batches, or over this rank's share of them, from a position that can be saved and restored."""

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
        ranks: Ranks = ONE_RANK,
    ) -> None:
        """`batch_rows`: rows per batch, of all ranks together. `epochs`: None repeats forever.

        `keep_partial`: also yield a last batch of fewer rows. `budget`: how many bad parts of the data to skip before
        an error; `say` reports each.
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
        """Bytes that the cache will hold after an epoch; 0 without a cache."""
        return self.order.rows * self.source.encoder.row_bytes if self.readers.caches else 0

    @property
    def rows_left(self) -> int | None:
        """Rows left, including bad ones; None if the stream has no end."""
        return None if self.epochs is None else max(0, self.epochs * self.order.rows - self.row)

    @property
    def ended(self) -> bool:
        """Whether all rows are read."""
        return self.rows_left == 0

    def state_dict(self) -> dict[str, Any]:
        """The next row number, the contents of the files it counts in, and the names of skipped bad data."""
        return {"row": self.row, "files": self.source.contents, "skipped": list(self.skipped)}

    def load_state_dict(self, state: dict[str, Any], *, accept_changes: bool = False) -> None:
        """Restore a saved position. Raises DataError if the files have changed since.

        `accept_changes`: in changed files, continue at the same epoch and row instead of raising.
        """
        changes = self.source.changes(state["files"])
        if changes and not accept_changes:
            lines = changes[:10]
            if len(changes) > 10:
                lines.append(f"and {len(changes) - 10} more")
            listed = "\n  ".join(lines)
            raise DataError(
                f"the data files have changed since the checkpoint:\n  {listed}\n"
                "Restore the old files, pass --accept-changed-data to continue with these, or start a new run "
                "with another training.save_dir (training.initial_checkpoint_dir can warm-start it)."
            )
        self.row, self.skipped = int(state["row"]), list(state["skipped"])
        if changes:
            old_rows = sum(int(content.split(" ")[0]) for content in state["files"].values() if content != "bad")
            epoch, row = divmod(self.row, old_rows)
            self.row = epoch * self.order.rows + min(row, self.order.rows)

    @property
    def batch_range(self) -> list[int]:
        """The row numbers of the last batch: [start, end), of the stream."""
        return [self.batch_start, self.row]

    def last_rows(self) -> list[tuple[str, int]]:
        """(file, row in the file from 0) of each row of the last batch, in order; before down-sampling.

        They are computed from the row number, so that the stream does not have to store rows.
        """
        skipped = set(self.skipped)
        rows: list[tuple[str, int]] = []
        for window, skip in self._plan(self.batch_start):
            window_start = self._start(window)
            if window_start >= self.row:
                break
            indices = np.sort(self.order.permutation(window)[skip : self.row - window_start])
            start = 0
            for chunk in (self.source.chunks[index] for index in window.chunks):
                begin, end = np.searchsorted(indices, (start, start + chunk.rows))
                file_rows = (indices[begin:end] - start + chunk.first_row).tolist()
                rows += [(chunk.file, row) for row in file_rows if not self.source.bad_names(chunk, row) & skipped]
                start += chunk.rows
        return rows

    def restarted(self) -> "BatchStream":
        """A copy of this stream that starts at the first row."""
        stream = copy(self)  # shares `skipped`, so that bad data is reported once
        stream.row = 0
        return stream

    def labels_only(self) -> "BatchStream":
        """A copy that reads labels and weights alone, once each, in this process and for all ranks.

        It skips bad data without a report: this stream reports it later.
        """
        stream = copy(self)
        loader = replace(self.source.loader, encoder=self.source.encoder.labels_only())
        stream.readers = Readers(loader, self.readers.count, cache=False)
        stream.row, stream.skipped, stream.epochs, stream.keep_partial = 0, [], 1, True
        stream.sampler = None  # its weights undo its sampling, so the rows before it have the same weighted means
        stream.say, stream.ranks = (lambda line: None), ONE_RANK
        return stream

    def __iter__(self) -> Generator[Batch, None, None]:
        """Batches from the current position on; the position moves on before each batch is yielded."""
        self.skip_bad_data(self.source.bad_data)
        read_rows = self.batch_rows if self.sampler is None else self.sampler.read_rows
        missing, selections = read_rows, list[Selection]()
        bad_rows = 0  # consecutive bad rows, counted in windows without a good one
        for window in self._windows():
            self.skip_bad_data(window.bad_data)
            bad_rows = 0 if len(window.ends) else bad_rows + window.rows
            if bad_rows >= self.order.rows:
                raise self.every_row_bad()
            start = 0
            while start < len(window.ends):
                count = min(missing, len(window.ends) - start)
                selections += window.take(start, count)
                start += count
                missing -= count
                if missing == 0:
                    yield self._batch(selections, read_rows, int(window.ends[start - 1]))
                    missing, selections = read_rows, []
        assert self.epochs is not None
        end = self.epochs * self.order.rows
        if selections and self.keep_partial:
            yield self._batch(selections, read_rows - missing, end)
        self.row = end

    def _batch(self, selections: list[Selection], rows: int, end: int) -> Batch:
        """This rank's share of the batch of the `rows` selected rows; moves the position to `end`."""
        if self.sampler is None:
            batch = assemble(slice_selections(selections, self.ranks.share(rows)))
        else:
            sampled = self.sampler(assemble(selections), self.row)
            batch = sampled.rows(self.ranks.share(len(sampled)))
        self.batch_start, self.row = self.row, end
        return batch

    def every_row_bad(self) -> DataError:
        """The error for data without a good row."""
        return DataError(
            f"{self.source.files[0]} and the other files of the same inputs: every row is bad; fix the data"
        )

    def skip_bad_data(self, bad_data: Sequence[BadData]) -> None:
        """Report bad data that has not been skipped before. Raises DataError beyond the budget."""
        for bad in bad_data:
            name = self.source.name_of(bad)
            if name in self.skipped:
                continue
            if len(self.skipped) >= self.budget:
                raise DataError(
                    f"{bad.text}\n{self.budget:,} bad parts of the data were skipped before, the limit of "
                    "on_bad_data.budget; fix the data, or raise the budget"
                )
            self.skipped.append(name)
            self.say(f"skipped ({len(self.skipped):,} of at most {self.budget:,}): {bad.text}")

    def _windows(self) -> Iterator[ShuffledWindow]:
        """The windows from the current position on, read ahead in threads."""
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
            threads.shutdown(wait=False, cancel_futures=True)  # do not wait for reads that may never end

    def _plan(self, row: int) -> Iterator[tuple[Window, int]]:
        """The windows from row number `row` on, each with the number of its rows that are already used."""
        epoch, row = divmod(row, self.order.rows)
        while self.epochs is None or epoch < self.epochs:
            for window in self.order.windows(epoch):
                skip = max(0, row - window.first_row)
                if skip < window.rows:
                    yield window, skip
            epoch, row = epoch + 1, 0

    def _load(self, window: Window, skip: int) -> ShuffledWindow:
        """Read a window and order its rows, without bad rows and without the first `skip` of the order."""
        loaded = self.readers.load([self.source.chunks[index] for index in window.chunks])
        batches = loaded.batches
        if len(batches) > _MAX_BATCHES:
            batches = [assemble([(batch, slice(None)) for batch in batches])]
        start = self._start(window)
        if loaded.mask is None:
            ends = range(start + skip + 1, start + window.rows + 1)
            rows = self.order.permutation(window)[skip:] if self.order.window_rows else range(skip, window.rows)
            return ShuffledWindow(batches, rows, ends, (), window.rows - skip)
        # For each position in the order: the index of its row among the good rows, or -1 for a bad row.
        indices = np.where(loaded.mask, np.cumsum(loaded.mask) - 1, -1)[self.order.permutation(window)]
        good = np.flatnonzero(indices >= 0)
        good = good[good >= skip]
        return ShuffledWindow(batches, indices[good], start + good + 1, loaded.bad_data, window.rows - skip)

    def _start(self, window: Window) -> int:
        """The row number of the stream before a window."""
        return window.epoch * self.order.rows + window.first_row
