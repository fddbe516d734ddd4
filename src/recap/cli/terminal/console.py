"""The reporter of the command line: live progress on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import rich.console
import rich.table

from recap.cli.terminal.comparison import comparison_tables
from recap.cli.terminal.progress import LiveProgress, Pace
from recap.cli.terminal.streams import lasting
from recap.cli.terminal.tables import (
    Evaluation,
    Intervals,
    bounds_text,
    change_table,
    cosine_table,
    drift_tables,
    field_table,
    gain_table,
    gate_table,
    inspection_table,
    loss_table,
    metric_tables,
    score_table,
    score_text,
    slice_table,
    slices_text,
)
from recap.config.evaluation.metrics import METRICS, format_metric
from recap.config.file.environment import hide
from recap.data.tools.inspect import Inspection
from recap.evaluation.compare import Comparison
from recap.reporting import Record, Reporter
from recap.text import duration, plural, wrapped

if TYPE_CHECKING:
    from recap.cli.terminal.predicting import BulkProgress
    from recap.evaluation.calibrate.gain import SplitGain
    from recap.evaluation.drift import Drift
    from recap.evaluation.slices import Slices

_PLAIN_WIDTH = 160
"""Width of the output, in columns, if it is not a terminal."""
_HEADLINES = tuple(spec for spec in METRICS if spec.headline)


class Console(Reporter):
    """Shows the progress and results of commands on standard output, or on standard error if that holds the result."""

    def __init__(self, *, to_errors: bool = False) -> None:
        self._out = rich.console.Console(highlight=False, file=lasting(sys.stderr if to_errors else sys.stdout))
        if not self._out.is_terminal:
            self._out.width = _PLAIN_WIDTH
        in_notebook = self._out.is_jupyter and find_spec("ipywidgets") is not None
        self._animates = self._out.is_terminal or in_notebook
        self._live: LiveProgress | None = None
        self._pace = Pace()
        self._losses: dict[str, float] = {}
        self._evaluated: dict[str, tuple[int, Evaluation]] = {}

    def start(self, save_dir: Path, step: int, steps: int, train_rows: int, epochs: float, setup: str) -> None:
        if step < steps:
            verb = f"resuming after step {step:,} of" if step else "training"
            self.say(f"{verb} {steps:,} steps over {train_rows:,} rows ({epochs:.1f} epochs) into {save_dir}")
            self.say(setup)
        self._pace = Pace()
        if self._animates and step < steps:
            self._live = LiveProgress(self._out, self._pace, step, steps)
            self._live.start()

    def advance(self, step: int, loss: float, examples: int, losses: Mapping[str, float], waited: float) -> None:
        self._pace.add(examples, waited)
        if self._live is not None:
            self._live.advance(step, loss, losses)

    def logged(self, record: Record) -> None:
        speed, wait = record["examples_per_second"], record["data_wait"]
        pace = f"  {speed:,.0f} examples/s" if isinstance(speed, float) else ""
        pace += f"  data wait {wait:.0%}" if isinstance(wait, float) else ""
        self.say(f"step {record['step']:>7,}  epoch {record['epoch']:.2f}  loss {record['loss']:.5f}{pace}")
        self._losses = {
            name.removeprefix("loss/"): value
            for name, value in record.items()
            if name.startswith("loss/") and isinstance(value, float)
        }

    def evaluated(self, step: int, split: str, evaluation: Evaluation) -> None:
        """Show the headline metric of each task on one line: AUC of binary tasks, XAUC of regressions."""
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

    def say(self, text: str) -> None:
        shown = wrapped(hide(text), self._out.width) if self._out.is_terminal else hide(text)
        self._out.print(shown, markup=False, soft_wrap=True)

    def next(self, command: str) -> None:
        """Suggest a command, in one line so that it can be copied."""
        self._out.print(hide(f"next: {command}"), markup=False, soft_wrap=True)

    def stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def ended(self, last: Path, best: Path | None) -> None:
        """Summarise a finished run: evaluations, last losses, duration, and the last and best checkpoint."""
        for split, (step, evaluation) in self._evaluated.items():
            self.say("")
            self.table(f"{split}, step {step:,}", evaluation)
        if self._losses:
            self.say("\nlast training losses")
            self._out.print(loss_table(self._losses, self._out.width))
        seconds = time.monotonic() - self._pace.started
        steps = plural(self._pace.steps, "step")
        speed = f": {self._pace.overall}" if self._pace.steps else ""
        self.say(f"\n{steps} in {duration(seconds)}{speed}")
        self.say(f"last checkpoint: {last}")
        if best is not None:
            self.say(f"best checkpoint: {best}")

    def table(self, title: str, evaluation: Evaluation, intervals: Intervals | None = None) -> None:
        """Show the metrics of each task as a table, the main ones with half the width of their intervals."""
        for table in metric_tables(title, evaluation, self._out.width, intervals):
            self._out.print(table)
        if bounds := bounds_text(evaluation):
            self.say(bounds)

    def uncalibrated(self, title: str, before: Evaluation, after: Evaluation) -> None:
        """Show the metrics of the tasks that calibration changes, before and after it."""
        self._out.print(change_table(title, before, after, self._out.width))

    def score(self, title: str, score: Mapping[str, float], intervals: Mapping[str, tuple[float, float]]) -> None:
        """Show the metrics of the final score."""
        if "lists" in score:
            self._out.print(score_table(title, score, intervals))
        self.say(score_text(score, intervals))

    @property
    def width(self) -> int:
        """Columns of the terminal."""
        return self._out.width

    def show(self, table: rich.table.Table) -> None:
        """Show any table."""
        self._out.print(table)

    def conflicts(self, title: str, cosines: Evaluation) -> None:
        """Show the cosine similarity of the gradients of each pair of tasks."""
        self._out.print(cosine_table(title, cosines, self._out.width))

    def comparison(self, title: str, comparison: Comparison) -> None:
        """Show the differences of a model from a baseline, and the verdict."""
        for table in comparison_tables(title, comparison, self._out.width):
            self._out.print(table)
        self.say(comparison.verdict.text)
        if comparison.left_out:
            self.say(f"left out, since only one of them predicts it: {', '.join(comparison.left_out)}")

    def gain(self, gain: "SplitGain") -> None:
        """Show what a calibration changed for each task, and that it left the order of rows as it was."""
        if not gain.tasks:
            return
        self._out.print(gain_table(gain, self._out.width))
        if (change := gain.auc_change) is not None:
            self.say(f"AUC: unchanged to {change:.0e}" if change else "AUC: unchanged")

    def gates(self, title: str, gates: Mapping[str, Mapping[str, float]]) -> None:
        """Show the mean weight of each expert at each gate."""
        self._out.print(gate_table(title, gates))

    def fields(self, title: str, evaluation: Evaluation, intervals: Intervals) -> None:
        """Show the Field-RCE of each task by the features of `metrics.fields`, if there are any."""
        table = field_table(title, evaluation, intervals)
        if table is not None:
            self._out.print(table)

    def slices(self, split: str, slices: "Slices") -> None:
        """Show the slices that do worse than the other rows, or that there are none."""
        if slices.slices:
            self._out.print(slice_table(f"slices of {split} that do worse than its other rows", slices))
        self.say(slices_text(split, slices))

    def drift(self, split: str, drift: "Drift") -> None:
        """Show how the rows of a split differ from training rows."""
        for table in drift_tables(split, drift):
            self._out.print(table)
        self.say(f"drift of {split}: {drift.rows[1]:,} rows against {drift.rows[0]:,} training rows, both sampled")

    def stratum(self, name: str, evaluation: Evaluation) -> None:
        """Show the rows and headline metrics of each task on one line."""
        names = ["count", *(spec.name for spec in _HEADLINES)]
        tasks = (
            " ".join([task, *(f"{key} {format_metric(key, metrics[key])}" for key in names if key in metrics)])
            for task, metrics in evaluation.items()
        )
        self.say(f"  {name}:  " + "  ".join(tasks))

    def inspection(self, inspection: Inspection) -> None:
        """Show the columns of data files."""
        self._out.print(inspection_table(inspection))

    @contextmanager
    def counting(self, noun: str) -> Iterator[Callable[[int], None]]:
        """Yield a function that adds to a count, which is shown while it grows and at the end, as in `5 rows read`."""
        total, started = 0, time.monotonic()
        with self._out.status(noun) if self._out.is_terminal else nullcontext() as status:

            def count(more: int) -> None:
                nonlocal total
                total += more
                if status is not None:
                    status.update(f"{total:,} {noun}")

            yield count
        self.say(f"{total:,} {noun} in {duration(time.monotonic() - started)}")

    @contextmanager
    def predicting(self) -> Iterator["BulkProgress"]:
        """Show the progress of a bulk prediction."""
        from recap.cli.terminal.predicting import BulkProgress

        with BulkProgress(self._out, self.say) as progress:
            yield progress
