"""How fast a run goes, and what of it is shown while it goes: a bar, speed, and the loss of each task."""

import math
import time
from collections.abc import Mapping

import rich.console
from rich.console import Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

_KEPT = 0.98
"""What is shown is smoothed over some 50 steps."""


class Pace:
    """Speed of training, without the time that evaluations took: lately, and of all steps."""

    def __init__(self) -> None:
        self.steps = 0
        self.started = self._last = time.monotonic()
        self._all = _Sums()
        self._lately = _Sums()

    def resume(self) -> None:
        """Something that is no training ends now; its time does not count."""
        self._last = time.monotonic()

    def add(self, examples: int, waited: float) -> None:
        """A step over `examples` rows is done, which waited for them for so many seconds."""
        now = time.monotonic()
        seconds, self._last = now - self._last, now
        self.steps += 1
        self._all = _Sums(self._all.examples + examples, self._all.seconds + seconds, self._all.waited + waited)
        lately = self._lately
        self._lately = _Sums(
            _KEPT * lately.examples + examples, _KEPT * lately.seconds + seconds, _KEPT * lately.waited + waited
        )

    def lately(self) -> str:
        """Examples/s and the share of time that was spent waiting for data, over the last steps."""
        return self._lately.tell()

    def over_all(self) -> str:
        """The same over all steps."""
        return self._all.tell()


class _Sums:
    def __init__(self, examples: float = 0.0, seconds: float = 0.0, waited: float = 0.0) -> None:
        self.examples, self.seconds, self.waited = examples, seconds, waited

    def tell(self) -> str:
        if not self.seconds:
            return ""
        return f"{self.examples / self.seconds:,.0f} examples/s  data wait {self.waited / self.seconds:.0%}"


class LiveProgress:
    """Lines at the foot of a terminal, gone when the run ends; made anew a few times a second, not each step."""

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
        """Show it."""
        self._live.start()

    def advance(self, step: int, loss: float, losses: Mapping[str, float]) -> None:
        """A step is done, with these losses."""
        self._bar.update(self._task, completed=step)
        self._loss = smoothed(self._loss, loss)
        self._losses = {task: smoothed(self._losses.get(task, math.nan), value) for task, value in losses.items()}

    def stop(self) -> None:
        """Take it away."""
        self._live.stop()

    def _render(self) -> RenderableType:
        loss = "" if math.isnan(self._loss) else f"loss {self._loss:.4f}  "
        lines: list[RenderableType] = [self._bar, Text(loss + self._pace.lately())]
        if len(self._losses) > 1:
            lines.append(loss_table(self._losses, self._out.width))
        return Group(*lines)


def smoothed(before: float, value: float) -> float:
    """A mean in which older values fade; values that are not finite are passed over."""
    if not math.isfinite(value):
        return before
    return value if math.isnan(before) else _KEPT * before + (1 - _KEPT) * value


LONGEST_NAME = 24
"""Of a task, where there is no room for more."""


def shortened(name: str, width: int) -> str:
    """A name in at most `width` letters, without its middle: ends tell names apart."""
    if len(name) <= width:
        return name
    end = (width - 1) // 2
    return f"{name[: width - 1 - end]}…{name[-end:]}"


def loss_table(losses: Mapping[str, float], width: int) -> Table:
    """`task loss` pairs, row by row, as many side by side as fit."""
    name_width = min(max(map(len, losses)), LONGEST_NAME)
    pairs = max(1, (width + 3) // (name_width + 1 + 7 + 3))  # a name, a space, a loss, and what parts it from the next
    table = Table.grid(padding=(0, 1))
    for pair in range(pairs):
        table.add_column(width=name_width, no_wrap=True, style="dim")
        table.add_column(width=7 + (2 if pair < pairs - 1 else 0), no_wrap=True)
    items = list(losses.items())
    for start in range(0, len(items), pairs):
        cells = [(escape(shortened(task, name_width)), f"{value:.4f}") for task, value in items[start : start + pairs]]
        table.add_row(*(cell for pair in cells for cell in pair))
    return table
