"""The progress of a bulk prediction: a bar on a terminal, a line every half minute elsewhere."""

import time
from types import TracebackType
from typing import Self

import rich.console
import rich.progress

from recap.inference.bulk import Progress
from recap.reporting import Say
from recap.text import duration, plural

_LINE_SECONDS = 30.0
"""Time between two lines where there is no terminal."""


class BulkProgress(Progress):
    """Shows rows/s, the number of the file, and the time left; a context manager."""

    def __init__(self, out: rich.console.Console, say: Say) -> None:
        """`out`: shows the bar, if it is a terminal."""
        self._say = say
        self._files = self._rows = self._file = self._done = 0
        self._started = self._shown = time.monotonic()
        self._bar: rich.progress.Progress | None = None
        if out.is_terminal:
            self._bar = rich.progress.Progress(
                rich.progress.TextColumn("{task.description}"),
                rich.progress.BarColumn(bar_width=None),
                rich.progress.TaskProgressColumn(),
                rich.progress.TimeRemainingColumn(),
                console=out,
                transient=True,
                refresh_per_second=4,
            )

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def start(self, files: int, rows: int) -> None:
        self._files, self._rows, self._started = files, rows, time.monotonic()
        if self._bar is not None:
            self._bar.add_task(self._description(0.0), total=rows)

    def advance(self, rows: int) -> None:
        self._done += rows
        now = time.monotonic()
        if self._bar is not None:
            description = self._description(now - self._started)
            self._bar.update(self._bar.task_ids[0], advance=rows, description=description)
        elif now - self._shown >= _LINE_SECONDS:
            self._shown = now
            self._say(self._line(now - self._started))

    def finish_file(self) -> None:
        self._file += 1

    def summary(self, rows: int) -> str:
        """The `rows` that all processes have predicted, and how fast, after some seconds."""
        seconds = time.monotonic() - self._started
        speed = f": {rows / seconds:,.0f} rows/s" if seconds >= 10 else ""
        return f"{rows:,} rows predicted in {duration(seconds)}{speed}"

    def _line(self, seconds: float) -> str:
        left = seconds * (self._rows / self._done - 1) if self._done else 0.0
        share = f"{self._done / self._rows:.0%} of " if self._rows else ""
        return f"{self._description(seconds)}, {share}{plural(self._rows, 'row')}, {duration(left)} left"

    def _description(self, seconds: float) -> str:
        speed = f", {self._done / seconds:,.0f} rows/s" if self._done and seconds else ""
        return f"file {min(self._file + 1, self._files):,} of {self._files:,}{speed}"
