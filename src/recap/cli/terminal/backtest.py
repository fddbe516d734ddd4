"""The table of a backtest, for the terminal, and its drift in words."""

import math
from collections.abc import Mapping, Sequence

from rich.markup import escape
from rich.table import Table

from recap.backtest.chart import HEADLINES
from recap.backtest.record import Measured
from recap.cli.terminal.tables import MAX_NAME_WIDTH, plain_table, shortened, with_margin
from recap.config.evaluation.metrics import SPECS, TaskKind, format_metric
from recap.evaluation.drift import LARGE, SOME

KINDS: dict[TaskKind, tuple[str, str]] = {
    "binary": ("ctr", "pctr"),
    "regression": ("mean_label", "mean_prediction"),
}
"""Kind of task → the metrics that are its mean label and mean prediction."""
_MAX_SHIFTED = 5
"""Features that one line of drift names."""


def backtest_table(measured: Mapping[str, Measured], kind: TaskKind, regressions: Sequence[str], width: int) -> Table:
    """The metrics of the tasks of one kind, a row per window and task, with half the width of their intervals.

    A narrow terminal has fewer columns: the mean predictions and labels leave first, then the last metrics.
    """
    label, prediction = KINDS[kind]
    metrics = HEADLINES[kind]
    rows = [
        (window, shortened(task, MAX_NAME_WIDTH), _cells(part, task, kind))
        for window, part in measured.items()
        for task in part.metrics
        if (task in regressions) == (kind == "regression")
    ]
    names = (label, prediction, prediction, *metrics)
    titles = [SPECS[name].title + (" in training" if index == 2 else "") for index, name in enumerate(names)]
    widths = [2 + max(map(len, column)) for column in zip(titles, *(cells for *_, cells in rows), strict=True)]
    used = sum(max((len(row[index]) for row in rows), default=0) + 2 for index in (0, 1))
    columns = list(range(len(titles)))
    for column in (2, 1, 0, *range(len(titles) - 1, 3, -1)):
        if used + sum(widths[index] for index in columns) > width:
            columns.remove(column)
    table = plain_table("")
    table.add_column("window", no_wrap=True)
    table.add_column("task", no_wrap=True)
    for column in columns:
        table.add_column(titles[column], justify="right", no_wrap=True)
    shown = ""
    for window, task, cells in rows:
        table.add_row("" if window == shown else window, escape(task), *(cells[column] for column in columns))
        shown = window
    return table


def _cells(part: Measured, task: str, kind: TaskKind) -> list[str]:
    """Mean label, mean prediction, that of training rows, and each metric with half the width of its interval."""
    label, prediction = KINDS[kind]
    metrics = part.metrics[task]
    cells = [format_metric(name, metrics.get(name, math.nan)) for name in (label, prediction)]
    cells.append(format_metric(prediction, part.predictions.get(task, (math.nan, math.nan))[0]))
    intervals = part.intervals.get(task, {})
    return cells + [with_margin(name, metrics.get(name, math.nan), intervals.get(name)) for name in HEADLINES[kind]]


def drift_text(part: Measured) -> str:
    """The features whose distribution shifted most."""
    shifted = [(name, psi) for name, psi in part.features.items() if psi >= SOME]
    if not shifted:
        largest = next(iter(part.features.items()), None)
        return "no features to compare" if largest is None else f"no feature shifted (largest PSI: {_psi(*largest)})"
    parts = [_psi(name, psi) + (" (large)" if psi >= LARGE else "") for name, psi in shifted[:_MAX_SHIFTED]]
    more = f" and {len(shifted) - _MAX_SHIFTED} more" if len(shifted) > _MAX_SHIFTED else ""
    return f"PSI of {', '.join(parts)}{more}"


def _psi(name: str, psi: float) -> str:
    return f"{name} {psi:.3f}"
