"""The speed of a run, and its live view on a terminal: a progress bar, speed, and the loss of each task."""

import math
import time
from collections.abc import Mapping

import rich.console
from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from recap.cli.terminal.tables import loss_table

_DECAY = 0.98
"""Decay of the displayed moving averages, which cover about 50 steps."""


class Pace:
    """The speed of training, evaluations excluded, over recent steps and over all steps."""

    def __init__(self) -> None:
        self.steps = 0
        self.started = self._last = time.monotonic()
        self._overall = _Totals()
        self._recent = _Totals()

    def resume(self) -> None:
        """Restart the clock after something that is not training, such as an evaluation."""
        self._last = time.monotonic()

    def add(self, examples: int, waited: float) -> None:
        """Record a finished step: its rows, and the seconds it waited for data."""
        now = time.monotonic()
        seconds, self._last = now - self._last, now
        self.steps += 1
        self._overall.add(examples, seconds, waited)
        self._recent.add(examples, seconds, waited, decay=_DECAY)

    @property
    def recent(self) -> str:
        """Examples/s and the share of time spent waiting for data, over recent steps."""
        return str(self._recent)

    @property
    def overall(self) -> str:
        """As `recent`, over all steps, in words."""
        speed, wait = self._overall.shares
        return f"{speed:,.0f} examples/s, waiting for data {wait:.0%} of the time, evaluations not counted"


class _Totals:
    """Rows, seconds, and seconds spent waiting for data."""

    def __init__(self) -> None:
        self._examples = self._seconds = self._waited = 0.0

    def add(self, examples: int, seconds: float, waited: float, decay: float = 1.0) -> None:
        self._examples = decay * self._examples + examples
        self._seconds = decay * self._seconds + seconds
        self._waited = decay * self._waited + waited

    @property
    def shares(self) -> tuple[float, float]:
        """Examples/s, and the share of time spent waiting for data; after the first step only."""
        return self._examples / self._seconds, self._waited / self._seconds

    def __str__(self) -> str:
        if not self._seconds:
            return ""
        speed, wait = self.shares
        return f"{speed:,.0f} examples/s  data wait {wait:.0%}"


class LiveProgress:
    """The live view: lines at the bottom of a terminal, redrawn four times a second, that vanish at the end."""

    def __init__(self, out: rich.console.Console, pace: Pace, step: int, steps: int) -> None:
        self._out, self._pace = out, pace
        self._loss = math.nan
        self._losses: dict[str, float] = {}
        self._bar = Progress(
            TextColumn("step {task.completed:,.0f}/{task.total:,.0f}"),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f}%  left"),
            TimeRemainingColumn(),
            console=out,
            expand=True,
        )
        self._task = self._bar.add_task("train", total=steps, completed=step)
        self._live = Live(get_renderable=self._render, console=out, refresh_per_second=4, transient=True)

    def start(self) -> None:
        """Show the view."""
        self._live.start()

    def advance(self, step: int, loss: float, losses: Mapping[str, float]) -> None:
        """Record a finished step with its losses."""
        self._bar.update(self._task, completed=step)
        self._loss = smoothed(self._loss, loss)
        self._losses = {task: smoothed(self._losses.get(task, math.nan), value) for task, value in losses.items()}

    def stop(self) -> None:
        """Remove the view."""
        self._live.stop()

    def _render(self) -> RenderableType:
        loss = "" if math.isnan(self._loss) else f"loss {self._loss:.4f}  "
        lines: list[RenderableType] = [self._bar, Text(loss + self._pace.recent)]
        if len(self._losses) > 1:
            lines.append(loss_table(self._losses, self._out.width))
        return Group(*lines)


def smoothed(average: float, value: float) -> float:
    """The moving average updated by `value`; NaN and infinity are skipped."""
    if not math.isfinite(value):
        return average
    return value if math.isnan(average) else _DECAY * average + (1 - _DECAY) * value
