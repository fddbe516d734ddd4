"""The table of a comparison, for the terminal."""

from collections.abc import Iterator

from rich.markup import escape
from rich.table import Table

from recap.cli.terminal.tables import MAX_NAME_WIDTH, plain_table, shortened
from recap.config.evaluation.metrics import format_metric, spec_of
from recap.evaluation.compare import Comparison, format_difference, gain
from recap.evaluation.metrics.estimate import Difference
from recap.evaluation.result import SCORE

_WIDE = 80
"""Columns of a terminal that the whole table takes."""
_METRICS = ("auc", "rce", "calibration", "xauc", "rmse")
"""The metrics shown, of those a task has; the file of --output holds all, also those of the score."""


def comparison_tables(title: str, comparison: Comparison, width: int) -> Iterator[Table]:
    """One row for each task and metric: both values, the difference with its interval, and what it says.

    Below `_WIDE` columns, only the difference with half of its interval.
    """
    is_wide = width >= _WIDE
    table = plain_table(title)
    longest = max((len(task) for task in comparison.candidate), default=4)
    name_width = max(min(longest, MAX_NAME_WIDTH, width - (66 if is_wide else 44)), 8)
    table.add_column("task", no_wrap=True, min_width=name_width)
    table.add_column("metric", no_wrap=True)
    for name in ("baseline", "model") if is_wide else ():
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column(_title(is_wide=is_wide), justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for task, metrics in comparison.candidate.items():
        first = True
        for name in _METRICS:
            difference = comparison.differences.get(task, {}).get(name)
            if difference is None:
                continue
            values = [comparison.baseline[task].get(name, float("nan")), metrics[name]] if is_wide else []
            table.add_row(
                escape(shortened(task, name_width)) if first else "",
                name,
                *(format_metric(name, value) for value in values),
                _difference(name, difference, is_wide=is_wide),
                _change(difference, gain(name, difference.value)) if _has_direction(name) else "",
            )
            first = False
    yield table
    score = comparison.differences.get(SCORE, {})
    shown = [name for name in score if name == "ndcg" or name.startswith("uplift_")]
    if shown:
        table = plain_table("final score")
        table.add_column("metric", no_wrap=True)
        table.add_column(_title(is_wide=is_wide), justify="right", no_wrap=True)
        table.add_column("", no_wrap=True)
        for name in shown:
            difference = score[name]
            cell = _difference(name, difference, is_wide=is_wide)
            table.add_row(name, cell, _change(difference, difference.value))
        yield table


def _title(*, is_wide: bool) -> str:
    return "difference [95%]" if is_wide else "difference"


def _difference(metric: str, difference: Difference, *, is_wide: bool) -> str:
    if is_wide:
        return escape(format_difference(metric, difference))
    half = format_metric(metric, (difference.high - difference.low) / 2)
    return f"{format_difference(metric, difference).partition(' ')[0]} ± {half}"


def _change(difference: Difference, gained: float) -> str:
    if not difference.is_certain:
        return ""
    return "better" if gained > 0 else "worse"


def _has_direction(metric: str) -> bool:
    spec = spec_of(metric)
    return spec is not None and spec.better is not None
