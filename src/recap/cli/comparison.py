"""The table of a comparison, for the terminal."""

from collections.abc import Iterator

from rich.markup import escape
from rich.table import Table

from recap.cli.tables import MAX_NAME_WIDTH, shortened
from recap.config.evaluation.metrics import format_metric, spec_of
from recap.config.file.environment import hide
from recap.evaluation.compare import Comparison, format_difference, gain
from recap.evaluation.result import SCORE

_METRICS = ("auc", "rce", "calibration", "xauc", "rmse")
"""The metrics shown, of those a task has; the file of --output holds all."""


def comparison_tables(title: str, comparison: Comparison, width: int) -> Iterator[Table]:
    """One row for each task and metric: both values, the difference with its interval, and what it says."""
    table = Table(title=hide(title), title_justify="left", box=None, pad_edge=False, header_style="bold")
    longest = max((len(task) for task in comparison.candidate), default=4)
    name_width = max(min(longest, MAX_NAME_WIDTH, width - 66), 8)
    table.add_column("task", no_wrap=True, min_width=name_width)
    table.add_column("metric", no_wrap=True)
    for name in ("baseline", "model", "difference [95 %]"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for task, metrics in comparison.candidate.items():
        first = True
        for name in _METRICS:
            difference = comparison.differences.get(task, {}).get(name)
            if difference is None:
                continue
            certain = difference.is_certain and _has_direction(name)
            change = ("better" if gain(name, difference.value) > 0 else "worse") if certain else ""
            table.add_row(
                escape(shortened(task, name_width)) if first else "",
                name,
                format_metric(name, comparison.baseline[task].get(name, float("nan"))),
                format_metric(name, metrics[name]),
                escape(format_difference(name, difference)),
                change,
            )
            first = False
    yield table
    score = comparison.differences.get(SCORE, {})
    if score:
        table = Table(title="final score", title_justify="left", box=None, pad_edge=False, header_style="bold")
        table.add_column("metric", no_wrap=True)
        table.add_column("difference [95 %]", justify="right", no_wrap=True)
        for name, difference in score.items():
            table.add_row(name, escape(format_difference(name, difference)))
        yield table


def _has_direction(metric: str) -> bool:
    spec = spec_of(metric)
    return spec is not None and spec.better is not None
