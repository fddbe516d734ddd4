"""The stream of batches: position in, batches out; what it remembers is one number.

The rows of all epochs stand in one endless line; batch k holds rows k·B … (k+1)·B - 1 of it, so a batch may begin in
one epoch and end in the next. Threads read the next windows while one is used: memory holds three windows.
"""

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from recap.config.recap import JobMode, RecapConfig
from recap.data.batch import Batch, concatenate
from recap.data.schema import RowEncoder
from recap.data.shuffle import RowOrder, Window
from recap.data.sources.source import Source
from recap.data.vocabulary import Vocabularies
from recap.errors import DataError

READERS = 2
"""Windows that are read at once, each by a thread, while one is used."""


class BatchStream:
    """An iterator of batches whose place can be saved and restored exactly."""

    def __init__(self, source: Source, order: RowOrder, batch_rows: int, *, repeat: bool) -> None:
        """`repeat`: epoch after epoch, every batch full; otherwise once, with the last partial batch."""
        self.source = source
        self.order = order
        self.batch_rows = batch_rows
        self.repeat = repeat
        self.row = 0

    @property
    def epoch(self) -> float:
        """Epochs passed, with the share of the current one."""
        return self.row / self.order.rows

    def state_dict(self) -> dict[str, int | str]:
        """The next row in the line of all epochs, and which data that is a place in."""
        return {"row": self.row, "fingerprint": self.source.fingerprint}

    def load_state_dict(self, state: dict[str, int | str]) -> None:
        """Go to a saved place. Raises DataError if the files are not those it was saved for."""
        if state["fingerprint"] != self.source.fingerprint:
            raise DataError(
                f"{self.source.files[0]} and its {len(self.source.files) - 1} sister files are not the data this run "
                "was reading: files, row groups or row counts changed. Bring the old files back, or start a new run "
                "with another training.save_dir (training.initial_checkpoint_dir can warm-start it)."
            )
        self.row = int(state["row"])

    def restarted(self) -> "BatchStream":
        """The same stream from its first row."""
        return BatchStream(self.source, self.order, self.batch_rows, repeat=self.repeat)

    def __iter__(self) -> Generator[Batch, None, None]:
        """Batches from the current place on; the place moves as each is handed out."""
        missing, parts = self.batch_rows, list[Batch]()
        for batch, permutation in self._windows():
            start = 0
            while start < len(permutation):
                part = batch.rows(permutation[start : start + missing])
                parts.append(part)
                start += len(part)
                missing -= len(part)
                if missing == 0:
                    yield self._hand_out(parts)
                    missing, parts = self.batch_rows, []
        if parts:
            yield self._hand_out(parts)

    def _hand_out(self, parts: list[Batch]) -> Batch:
        batch = concatenate(parts)
        self.row += len(batch)
        return batch

    def _windows(self) -> Iterator[tuple[Batch, torch.Tensor]]:
        """Windows from the current place on: their rows, and the order [rows left] in which to take them."""
        with ThreadPoolExecutor(READERS, thread_name_prefix="recap-reader") as readers:
            ahead: deque[Future[tuple[Batch, torch.Tensor]]] = deque()
            for window, skip in self._plan(self.row):
                ahead.append(readers.submit(self._load, window, skip))
                if len(ahead) > READERS:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()

    def _plan(self, row: int) -> Iterator[tuple[Window, int]]:
        """Windows from global `row` on, and how many rows of each were already used."""
        epoch, row = divmod(row, self.order.rows)
        if epoch and not self.repeat:
            return
        while True:
            for window in self.order.windows(epoch):
                skip = max(0, row - window.first_row)
                if skip < window.rows:
                    yield window, skip
            if not self.repeat:
                return
            epoch, row = epoch + 1, 0

    def _load(self, window: Window, skip: int) -> tuple[Batch, torch.Tensor]:
        chunks = [self.source.chunks[index] for index in window.chunks]
        encode = self.source.encoder.encode
        batches = [encode(self.source.read(chunk), self.source.place(chunk)) for chunk in chunks]
        return concatenate(batches), torch.from_numpy(self.order.permutation(window)[skip:])


def open_stream(
    config: RecapConfig, vocabularies: Vocabularies, mode: JobMode, split: str | None = None
) -> BatchStream:
    """The stream of `train_data` (mode train) or of validation set `split` (mode evaluate).

    Raises DataError where files are missing or do not hold what the configuration says.
    """
    train = mode is JobMode.TRAIN
    data = config.train_data if split is None else config.validation_data[split]
    source = Source(data.source, RowEncoder.for_job(config, vocabularies, mode, data))
    window_rows = config.train_data.shuffle_window_rows if train else 0
    order = RowOrder([chunk.rows for chunk in source.chunks], window_rows, config.training.seed)
    return BatchStream(source, order, data.global_batch_size, repeat=train)
