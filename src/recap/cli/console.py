"""What a person sees while a command runs: progress on a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import rich.console
from rich.markup import escape
from rich.table import Table

from recap.cli.progress import LONGEST_NAME, LiveProgress, Pace, loss_table, shortened
from recap.config.file.environment import hide
from recap.data.tools.inspect import Inspection
from recap.reporting import Record, Reporter

_TABLE_METRICS = ("positives", "ctr", "calibration", "log_loss", "rce", "auc", "pr_auc", "grouped_auc")
_TABLE_REGRESSION = ("count", "mean_label", "mean_prediction", "mae", "rmse", "xauc")
"""What fits a terminal; files hold all."""
_LEFT_OUT_FIRST = ("pr_auc", "log_loss", "grouped_auc", "positives", "mean_label", "mean_prediction", "ctr")
"""Where a terminal is too narrow for a table."""
_PLAIN_WIDTH = 160


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
        """A line of validation AUC for each task, XAUC for a regression."""
        self._pace.resume()
        self._evaluated[split] = (step, evaluation)
        line = ""
        for name in ("auc", "xauc"):
            shown = [f"{task} {metrics[name]:.4f}" for task, metrics in evaluation.items() if name in metrics]
            line += "".join(["  ", name.upper(), *(f"  {each}" for each in shown)]) if shown else ""
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
        """Metrics of each task, a task a row; regressions in a table of their own."""
        of_regression = {"mean_label", "mean_prediction", "mae", "rmse", "xauc", "xauc_bound"}
        regressions = {task: metrics for task, metrics in evaluation.items() if of_regression & metrics.keys()}
        others = {task: metrics for task, metrics in evaluation.items() if task not in regressions}
        for known, chosen in ((_TABLE_METRICS, others), (_TABLE_REGRESSION, regressions)):
            names = [name for name in known if any(name in metrics for metrics in chosen.values())]
            rows = {
                task: [format_metric(name, metrics.get(name, float("nan"))) for name in names]
                for task, metrics in chosen.items()
            }
            if chosen:
                self._task_table(title, names, rows)

    def conflicts(self, title: str, found: Mapping[str, Mapping[str, float]]) -> None:
        """How alike the gradients of tasks are: a row and a column for each task."""
        rows = {task: [format_metric("cosine", value) for value in others.values()] for task, others in found.items()}
        self._task_table(title, list(found), rows)

    def _task_table(self, title: str, names: Sequence[str], rows: Mapping[str, Sequence[str]]) -> None:
        widths = {
            name: 2 + max(map(len, (name, *values)))
            for name, values in zip(names, zip(*rows.values(), strict=True), strict=True)
        }
        longest = max(map(len, ("task", *rows)))
        for name in _LEFT_OUT_FIRST:
            if min(longest, LONGEST_NAME) + sum(widths.values()) > self._out.width:
                widths.pop(name, None)
        first = max(min(longest, LONGEST_NAME), min(longest, self._out.width - sum(widths.values())))
        table = Table(title=hide(title), title_justify="left", box=None, pad_edge=False, header_style="bold")
        table.add_column("task", no_wrap=True, min_width=first)
        for name in widths:
            table.add_column(name, justify="right", no_wrap=True)
        for task, values in rows.items():
            shown = (value for name, value in zip(names, values, strict=True) if name in widths)
            table.add_row(escape(shortened(task, first)), *shown)
        self._out.print(table)

    def gates(self, title: str, gates: Mapping[str, Mapping[str, float]]) -> None:
        """How much each gate leans on each expert, a gate a row."""
        table = Table(title=hide(title), title_justify="left", box=None, pad_edge=False, header_style="bold")
        table.add_column("gate", no_wrap=True)
        table.add_column("mean weight of each expert")
        for gate, weights in gates.items():
            table.add_row(escape(gate), escape("  ".join(f"{name} {mean:.3f}" for name, mean in weights.items())))
        self._out.print(table)

    def stratum(self, name: str, evaluation: Mapping[str, Mapping[str, float]]) -> None:
        """A line of rows and AUC for each task; the file holds the rest."""
        shown = [
            f"{task} "
            + " ".join(f"{key} {format_metric(key, metrics[key])}" for key in ("count", "auc") if key in metrics)
            for task, metrics in evaluation.items()
        ]
        self.say(f"  {name}:  " + "  ".join(shown))

    def inspection(self, found: Inspection) -> None:
        """What files hold, a column a row."""
        title = f"{found.rows:,} rows of {found.format} in {found.files:,} file{'s' if found.files > 1 else ''}"
        table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
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


def format_metric(name: str, value: float) -> str:
    """A metric as a person reads it; - where it is undefined."""
    if value != value:
        return "-"
    if name in ("count", "positives"):
        return f"{value:,.0f}"
    if name in ("mean_label", "mean_prediction", "mae", "rmse"):
        return f"{value:.5g}"
    return (
        f"{value:.2f}"
        if name in ("rce", "nrce")
        else f"{value:.5f}"
        if name in ("log_loss", "ctr", "pctr")
        else f"{value:.4f}"
    )


@contextmanager
def _nothing() -> Iterator[None]:
    yield None
