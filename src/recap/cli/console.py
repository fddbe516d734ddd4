"""What a person sees while a command runs: progress on a terminal, plain lines elsewhere."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import rich.console
from rich.markup import escape
from rich.table import Table

from recap.cli.progress import LONGEST_NAME, LiveProgress, Pace, loss_table, shortened
from recap.config.file.environment import hide
from recap.config.metrics import METRICS, TaskKind, format_metric, metrics_of, spec_of
from recap.data.tools.inspect import Inspection
from recap.reporting import Record, Reporter

_PLAIN_WIDTH = 160
"""Columns, where the output is not a terminal."""
_HEADLINES = tuple(spec for spec in METRICS if spec.headline)


class Console(Reporter):
    """The reporter of the command line."""

    def __init__(self) -> None:
        self._out = rich.console.Console(highlight=False)
        if not self._out.is_terminal:
            self._out.width = _PLAIN_WIDTH
        self._live: LiveProgress | None = None
        self._pace = Pace()
        self._losses: dict[str, float] = {}
        self._evaluated: dict[str, tuple[int, Mapping[str, Mapping[str, float]]]] = {}

    def start(self, save_dir: Path, step: int, steps: int, train_rows: int, epochs: float, on: str) -> None:
        """Say what begins, or goes on."""
        if step < steps:
            verb = f"resuming after step {step:,} of" if step else "training"
            self.say(f"{verb} {steps:,} steps over {train_rows:,} rows ({epochs:.1f} epochs) into {save_dir}")
            self.say(on)
        self._pace = Pace()
        if self._out.is_terminal and step < steps:
            self._live = LiveProgress(self._out, self._pace, step, steps)
            self._live.start()

    def advance(self, step: int, loss: float, examples: int, losses: Mapping[str, float], waited: float) -> None:
        """Move the bar."""
        self._pace.add(examples, waited)
        if self._live is not None:
            self._live.advance(step, loss, losses)

    def logged(self, record: Record) -> None:
        """A line of training losses."""
        speed, wait = record["examples_per_second"], record["data_wait"]
        shown = f"  {speed:,.0f} examples/s" if isinstance(speed, float) else ""
        shown += f"  data wait {wait:.0%}" if isinstance(wait, float) else ""
        self.say(f"step {record['step']:>7,}  epoch {record['epoch']:.2f}  loss {record['loss']:.5f}{shown}")
        self._losses = {
            name.removeprefix("loss/"): value
            for name, value in record.items()
            if name.startswith("loss/") and isinstance(value, float)
        }

    def evaluated(self, step: int, split: str, evaluation: Mapping[str, Mapping[str, float]]) -> None:
        """One line: AUC of each binary task, XAUC of each regression."""
        self._pace.resume()
        self._evaluated[split] = (step, evaluation)
        line = ""
        for spec in _HEADLINES:
            values = [
                f"  {task} {format_metric(spec.name, metrics[spec.name])}"
                for task, metrics in evaluation.items()
                if spec.name in metrics
            ]
            if values:
                line += f"  {spec.title}" + "".join(values)
        self.say(f"step {step:>7,}  {split}" + (line or " evaluated"))

    def ended(self, last: Path, best: Path | None) -> None:
        """What came of a run: its evaluations and losses, how long it took, and its `last` and `best` checkpoint."""
        for split, (step, evaluation) in self._evaluated.items():
            self.say("")
            self.table(f"{split}, step {step:,}", evaluation)
        if self._losses:
            self.say("\nlast training losses")
            self._out.print(loss_table(self._losses, self._out.width))
        seconds = time.monotonic() - self._pace.started
        steps = f"{self._pace.steps:,} step{'s' if self._pace.steps != 1 else ''}"
        speed = f": {self._pace.over_all()} (evaluations left out)" if self._pace.steps else ""
        self.say(f"\n{steps} in {duration(seconds)}{speed}")
        self.say(f"last checkpoint: {last}")
        if best is not None:
            self.say(f"best checkpoint: {best}")

    def say(self, text: str) -> None:
        """One line."""
        self._out.print(hide(text), markup=False, soft_wrap=True)

    def stop(self) -> None:
        """Take the bar away."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def table(self, title: str, evaluation: Mapping[str, Mapping[str, float]]) -> None:
        """Metrics by task, one row per task; regressions in a table of their own."""
        regressions = {task: metrics for task, metrics in evaluation.items() if _is_regression(metrics)}
        binary = {task: metrics for task, metrics in evaluation.items() if task not in regressions}
        kinds: dict[TaskKind, Mapping[str, Mapping[str, float]]] = {"binary": binary, "regression": regressions}
        for kind, chosen in kinds.items():
            columns = [spec.name for spec in metrics_of(kind) if kind in spec.column_of]
            names = [name for name in columns if any(name in metrics for metrics in chosen.values())]
            rows = {
                task: [format_metric(name, metrics.get(name, math.nan)) for name in names]
                for task, metrics in chosen.items()
            }
            if rows:
                self._task_table(title, names, rows)

    def conflicts(self, title: str, cosines: Mapping[str, Mapping[str, float]]) -> None:
        """Cosine similarity of the gradients of each pair of tasks: one row and one column per task."""
        rows = {
            task: ["-" if math.isnan(value) else f"{value:.4f}" for value in others.values()]
            for task, others in cosines.items()
        }
        self._task_table(title, list(cosines), rows)

    def _task_table(self, title: str, names: Sequence[str], rows: Mapping[str, Sequence[str]]) -> None:
        widths = {
            name: 2 + max(map(len, (name, *values)))
            for name, values in zip(names, zip(*rows.values(), strict=True), strict=True)
        }
        longest = max(map(len, ("task", *rows)))
        for name in sorted(widths, key=_column_rank, reverse=True):
            if _column_rank(name) and min(longest, LONGEST_NAME) + sum(widths.values()) > self._out.width:
                del widths[name]
        first = max(min(longest, LONGEST_NAME), min(longest, self._out.width - sum(widths.values())))
        table = _table(title)
        table.add_column("task", no_wrap=True, min_width=first)
        for name in widths:
            table.add_column(name, justify="right", no_wrap=True)
        for task, values in rows.items():
            shown = (value for name, value in zip(names, values, strict=True) if name in widths)
            table.add_row(escape(shortened(task, first)), *shown)
        self._out.print(table)

    def gates(self, title: str, gates: Mapping[str, Mapping[str, float]]) -> None:
        """Mean weight of each expert, one row per gate."""
        table = _table(title)
        table.add_column("gate", no_wrap=True)
        table.add_column("mean weight of each expert")
        for gate, weights in gates.items():
            table.add_row(escape(gate), escape("  ".join(f"{name} {mean:.3f}" for name, mean in weights.items())))
        self._out.print(table)

    def stratum(self, name: str, evaluation: Mapping[str, Mapping[str, float]]) -> None:
        """One line: rows and headline metrics of each task; the file holds all metrics."""
        names = ["count", *(spec.name for spec in _HEADLINES)]
        tasks = (
            " ".join([task, *(f"{key} {format_metric(key, metrics[key])}" for key in names if key in metrics)])
            for task, metrics in evaluation.items()
        )
        self.say(f"  {name}:  " + "  ".join(tasks))

    def inspection(self, found: Inspection) -> None:
        """What files hold, a column a row."""
        title = f"{found.rows:,} rows of {found.format} in {found.files:,} file{'s' if found.files > 1 else ''}"
        table = _table(title)
        table.add_column("column", no_wrap=True)
        table.add_column("type", no_wrap=True)
        for name in ("missing", "from", "to", "distinct", "ones"):
            table.add_column(name, justify="right", no_wrap=True)
        for column in found.columns:
            ones = "" if column.positives is None else f"{column.positives:,} ({column.positives / found.rows:.2%})"
            missing = "" if not column.missing else f"{column.missing:,} ({column.missing / found.rows:.2%})"
            distinct = "many" if column.distinct is None else f"{column.distinct:,}"
            table.add_row(column.name, column.type, missing, _short(column.low), _short(column.high), distinct, ones)
        self._out.print(table)

    @contextmanager
    def counting(self, what: str) -> Iterator[Callable[[int], None]]:
        """Give a function that counts; the count is shown while it grows, and at the end."""
        total, started = 0, time.monotonic()
        with self._out.status(what) if self._out.is_terminal else _nothing() as status:

            def count(more: int) -> None:
                nonlocal total
                total += more
                if status is not None:
                    status.update(f"{total:,} {what}")

            yield count
        seconds = time.monotonic() - started
        self.say(f"{total:,} {what} in {seconds:.1f} s")


def duration(seconds: float) -> str:
    """Seconds as a person reads them, such as 4.2 s, 3 min 20 s or 5 h 02 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def _short(value: object) -> str:
    """A bound of a column, as short as a table asks for."""
    if value is None:
        return ""
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 20 else f"{text[:17]}..."


def _is_regression(metrics: Mapping[str, float]) -> bool:
    """Whether a task has a metric that only regressions have."""
    return any(spec is not None and spec.of == ("regression",) for spec in map(spec_of, metrics))


def _column_rank(name: str) -> int:
    spec = spec_of(name)
    return spec.column_rank if spec is not None else 0


def _table(title: str) -> Table:
    return Table(title=hide(title), title_justify="left", box=None, pad_edge=False, header_style="bold")


@contextmanager
def _nothing() -> Iterator[None]:
    yield None
