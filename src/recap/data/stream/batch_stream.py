"""The stream of batches: position in, batches out; what it remembers is one number, and what was passed over.

The rows of all epochs stand in one endless line; batch k holds rows k·B … (k+1)·B - 1 of it, so a batch may begin in
one epoch and end in the next. Bad rows keep their place in the line; a batch goes on behind them. Threads read the next
windows while one is used: memory holds the one in use and those being read. Of each batch a rank hands out its share;
where it is in the line is the same on all ranks, and for any number of them.
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
from recap.data.stream.source import Fault, Source
from recap.distributed import ALONE, Ranks
from recap.errors import DataError
from recap.reporting import Say, say_to_stderr

_MAX_PARTS = 8
"""Chunks of a window from which batches are gathered as they are; of more, joining them first is less work."""


@dataclass(frozen=True)
class WindowRows:
    """A window that was read."""

    parts: Sequence[Batch]
    """The rows that are there, end to end."""
    order: npt.NDArray[np.int64] | range
    """[n] which of them to take, one after the other."""
    ends: npt.NDArray[np.int64] | range
    """[n] the place in the line behind each of them."""
    faults: Sequence[Fault]
    rows: int
    """Those that are left of the window, bad ones among them."""

    def take(self, start: int, count: int) -> Iterator[Selection]:
        """`count` rows, or those that are left, part by part: within a batch rows stand as they do in their part."""
        chosen = self.order[start : start + count]
        if not isinstance(chosen, range):
            chosen = np.sort(chosen)
        first = 0
        for part in self.parts:
            last = first + len(part)
            if isinstance(chosen, range):
                rows = slice(max(chosen.start, first) - first, min(chosen.stop, last) - first)
                if rows.start < rows.stop:
                    yield part, rows
            else:
                begin, end = np.searchsorted(chosen, (first, last))
                if begin < end:
                    yield part, chosen[begin:end] - first
            first = last


class BatchStream:
    """An iterator of batches, or of a rank's share of each, whose place can be saved and restored exactly."""

    def __init__(
        self,
        source: Source,
        order: RowOrder,
        readers: Readers,
        batch_rows: int,
        *,
        epochs: int | None,
        keep_rest: bool = False,
        sampler: NegativeSampler | None = None,
        budget: int = 0,
        say: Say = say_to_stderr,
        ranks: Ranks = ALONE,
    ) -> None:
        """`batch_rows` of all ranks. `epochs`: none, and it never ends. `keep_rest`: the last batch may hold fewer.

        `budget`: parts of the data that may be passed over; `say` is told of each.
        """
        self.source = source
        self.order = order
        self.readers = readers
        self.batch_rows = batch_rows
        self.epochs = epochs
        self.keep_rest = keep_rest
        self.sampler = sampler
        self.budget = budget
        self.say = say
        self.ranks = ranks
        self.row = self.batch_start = 0
        self.skipped: list[str] = []

    @property
    def epoch(self) -> float:
        """Epochs passed, with the share of the current one."""
        return self.row / self.order.rows

    @property
    def cache_bytes(self) -> int:
        """What it will keep in memory from one epoch to the next."""
        return self.order.rows * self.source.loader.encoder.empty().row_bytes if self.readers.caches else 0

    @property
    def rows_left(self) -> int | None:
        """Rows, bad ones among them, up to the end; none: there is none."""
        return None if self.epochs is None else max(0, self.epochs * self.order.rows - self.row)

    @property
    def ended(self) -> bool:
        """Whether there is not one more batch."""
        return self.rows_left == 0

    def state_dict(self) -> dict[str, Any]:
        """The next row in the line of all epochs, which data that is a place in, and what was passed over."""
        return {"row": self.row, "files": self.source.contents, "skipped": list(self.skipped)}

    def load_state_dict(self, state: dict[str, Any], *, accept_changes: bool = False) -> None:
        """Go to a saved place. Raises DataError if the files are not those it was saved for.

        `accept_changes`: then it is the same row of the same epoch of the files that are there now.
        """
        changes = self.source.changes(state["files"])
        if changes and not accept_changes:
            shown = "\n  ".join([*changes[:10], *([f"and {len(changes) - 10} more"] if len(changes) > 10 else [])])
            raise DataError(
                f"the files are not the data this run was reading:\n  {shown}\n"
                "Bring the old files back, give --accept-changed-data to go on with these, or start a new run "
                "with another training.save_dir (training.initial_checkpoint_dir can warm-start it)."
            )
        self.row, self.skipped = int(state["row"]), list(state["skipped"])
        if changes:
            before = sum(int(content.split(" ")[0]) for content in state["files"].values() if content != "bad")
            epoch, row = divmod(self.row, before)
            self.row = epoch * self.order.rows + min(row, self.order.rows)

    @property
    def batch_place(self) -> list[int]:
        """[start, end) of the last batch in the line of all epochs."""
        return [self.batch_start, self.row]

    def last_rows(self) -> list[tuple[str, int]]:
        """(file, row of it from 0) of each row of the last batch, in its order; where it was sampled, of all read.

        Found again from the place, so that nothing is remembered of rows.
        """
        passed_over = set(self.skipped)
        rows: list[tuple[str, int]] = []
        for window, skip in self._plan(self.batch_start):
            first = window.epoch * self.order.rows + window.first_row
            if first >= self.row:
                break
            places = np.sort(self.order.permutation(window)[skip : self.row - first])
            start = 0
            for chunk in (self.source.chunks[index] for index in window.chunks):
                begin, end = np.searchsorted(places, (start, start + chunk.rows))
                numbers = (places[begin:end] - start + chunk.first_row).tolist()
                rows += [(chunk.file, row) for row in numbers if not self.source.parts(chunk, row) & passed_over]
                start += chunk.rows
        return rows

    def restarted(self) -> "BatchStream":
        """The same stream from its first row."""
        stream = copy(self)  # what was passed over is told once
        stream.row = 0
        return stream

    def __iter__(self) -> Generator[Batch, None, None]:
        """Batches from the current place on; the place moves as each is handed out."""
        self._pass_over(self.source.faults)
        wanted = self.batch_rows if self.sampler is None else self.sampler.read_rows
        missing, picks = wanted, list[Selection]()
        barren = 0
        for window in self._windows():
            self._pass_over(window.faults)
            barren = 0 if len(window.ends) else barren + window.rows
            if barren >= self.order.rows:
                raise DataError(f"{self.source.files[0]} and its sister files: not a single good row is left of them")
            start = 0
            while start < len(window.ends):
                count = min(missing, len(window.ends) - start)
                picks += window.take(start, count)
                start += count
                missing -= count
                if missing == 0:
                    yield self._hand_out(picks, wanted, int(window.ends[start - 1]))
                    missing, picks = wanted, []
        assert self.epochs is not None
        end = self.epochs * self.order.rows
        if picks and self.keep_rest:
            yield self._hand_out(picks, wanted - missing, end)
        self.row = end

    def _hand_out(self, picks: list[Selection], rows: int, end: int) -> Batch:
        if self.sampler is None:
            batch = assemble(cut(picks, self.ranks.share(rows)))
        else:
            whole = self.sampler(assemble(picks), self.row)
            batch = whole.rows(self.ranks.share(len(whole)))
        self.batch_start, self.row = self.row, end
        return batch

    def _pass_over(self, faults: Sequence[Fault]) -> None:
        """Tell of what was not passed over before. Raises DataError where it is too much."""
        for fault in faults:
            unit = self.source.unit(fault)
            if unit in self.skipped:
                continue
            if len(self.skipped) >= self.budget:
                raise DataError(
                    f"{fault.text}\n{self.budget:,} bad parts of the data were passed over before, and no more may be "
                    "(on_bad_data.budget); mend the data, or raise the budget"
                )
            self.skipped.append(unit)
            self.say(f"passed over ({len(self.skipped):,} of at most {self.budget:,}): {fault.text}")

    def _windows(self) -> Iterator[WindowRows]:
        """Windows from the current place on."""
        threads = ThreadPoolExecutor(self.readers.count, thread_name_prefix="recap-reader")
        try:
            ahead: deque[Future[WindowRows]] = deque()
            for window, skip in self._plan(self.row):
                ahead.append(threads.submit(self._load, window, skip))
                if len(ahead) > self.readers.count:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            threads.shutdown(wait=False, cancel_futures=True)  # who stops does not wait for data that never comes

    def _plan(self, row: int) -> Iterator[tuple[Window, int]]:
        """Windows from global `row` on, and how many rows of each were already used."""
        epoch, row = divmod(row, self.order.rows)
        while self.epochs is None or epoch < self.epochs:
            for window in self.order.windows(epoch):
                skip = max(0, row - window.first_row)
                if skip < window.rows:
                    yield window, skip
            epoch, row = epoch + 1, 0

    def _load(self, window: Window, skip: int) -> WindowRows:
        """Read a window, and find the order of its rows, but for those that are bad or were already used."""
        loaded = self.readers.load([self.source.chunks[index] for index in window.chunks])
        parts = loaded.parts
        if len(parts) > _MAX_PARTS:
            parts = [assemble([(part, slice(None)) for part in parts])]
        first = window.epoch * self.order.rows + window.first_row
        if loaded.kept is None:
            ends = range(first + skip + 1, first + window.rows + 1)
            rows = self.order.permutation(window)[skip:] if self.order.window_rows else range(skip, window.rows)
            return WindowRows(parts, rows, ends, (), window.rows - skip)
        # Where each row of the window stands among those that are there.
        place = np.where(loaded.kept, np.cumsum(loaded.kept) - 1, -1)[self.order.permutation(window)]
        there = np.flatnonzero(place >= 0)
        there = there[there >= skip]
        return WindowRows(parts, place[there], first + there + 1, loaded.faults, window.rows - skip)
