"""Tables for the terminal. To fit the width, they drop columns and shorten names, but never cut numbers."""

import math
from collections.abc import Iterator, Mapping, Sequence

from rich.markup import escape
from rich.table import Table

from recap.config.evaluation.metrics import TaskKind, bound_of, format_metric, metrics_of, spec_of
from recap.config.file.environment import hide
from recap.data.tools.inspect import Inspection
from recap.text import plural

MAX_NAME_WIDTH = 24
"""Characters of a task's name, if space is short."""
_LOSS_WIDTH = 7
_GAP = 3
"""Spaces between pairs of task and loss."""
_MAX_VALUE_WIDTH = 20

Evaluation = Mapping[str, Mapping[str, float]]
"""Task → metric → value."""


def metric_tables(title: str, evaluation: Evaluation, width: int) -> Iterator[Table]:
    """Metrics, one row per task; binary tasks and regressions in separate tables."""
    regressions = {task: metrics for task, metrics in evaluation.items() if _is_regression(metrics)}
    binary = {task: metrics for task, metrics in evaluation.items() if task not in regressions}
    kinds: dict[TaskKind, Evaluation] = {"binary": binary, "regression": regressions}
    for kind, tasks in kinds.items():
        columns = [spec.name for spec in metrics_of(kind) if kind in spec.column_of]
        names = [name for name in columns if any(name in metrics for metrics in tasks.values())]
        rows = {
            task: [format_metric(name, metrics.get(name, math.nan)) for name in names]
            for task, metrics in tasks.items()
        }
        if rows:
            yield _task_table(title, names, rows, width)


def bounds_text(evaluation: Evaluation) -> str:
    """The bound of each metric that is not exact, the largest over tasks; empty if all are exact."""
    bounds: dict[str, float] = {}
    for metrics in evaluation.values():
        for name in metrics:
            bounds[name] = max(bounds.get(name, 0.0), metrics.get(bound_of(name), 0.0))
    values = [f"{name} ± {bound:.2g}" for name, bound in bounds.items() if bound > 0]
    return f"estimates: {', '.join(values)}" if values else ""


def cosine_table(title: str, cosines: Evaluation, width: int) -> Table:
    """Cosine similarity of the gradients of each pair of tasks: one row and one column per task."""
    rows = {
        task: ["-" if math.isnan(value) else f"{value:.4f}" for value in others.values()]
        for task, others in cosines.items()
    }
    return _task_table(title, list(cosines), rows, width)


def _task_table(title: str, names: Sequence[str], rows: Mapping[str, Sequence[str]], width: int) -> Table:
    widths = {
        name: 2 + max(map(len, (name, *values)))
        for name, values in zip(names, zip(*rows.values(), strict=True), strict=True)
    }
    longest = max(map(len, ("task", *rows)))
    for name in sorted(widths, key=_column_rank, reverse=True):
        if _column_rank(name) and min(longest, MAX_NAME_WIDTH) + sum(widths.values()) > width:
            del widths[name]
    name_width = max(min(longest, MAX_NAME_WIDTH), min(longest, width - sum(widths.values())))
    table = _table(title)
    table.add_column("task", no_wrap=True, min_width=name_width)
    for name in widths:
        table.add_column(name, justify="right", no_wrap=True)
    for task, values in rows.items():
        cells = (value for name, value in zip(names, values, strict=True) if name in widths)
        table.add_row(escape(shortened(task, name_width)), *cells)
    return table


def _is_regression(metrics: Mapping[str, float]) -> bool:
    """Whether a task has a metric that only regressions have."""
    return any(spec is not None and spec.of == ("regression",) for spec in map(spec_of, metrics))


def _column_rank(name: str) -> int:
    spec = spec_of(name)
    return spec.column_rank if spec is not None else 0


def gate_table(title: str, gates: Mapping[str, Mapping[str, float]]) -> Table:
    """Mean weight of each expert, one row per gate."""
    table = _table(title)
    table.add_column("gate", no_wrap=True)
    table.add_column("mean weight of each expert")
    for gate, weights in gates.items():
        table.add_row(escape(gate), escape("  ".join(f"{name} {mean:.3f}" for name, mean in weights.items())))
    return table


def inspection_table(inspection: Inspection) -> Table:
    """The columns of data files, one row per column."""
    rows, files = inspection.rows, inspection.files
    table = _table(f"{rows:,} rows of {inspection.format} in {plural(files, 'file')}")
    table.add_column("column", no_wrap=True)
    table.add_column("type", no_wrap=True)
    for name in ("missing", "from", "to", "distinct", "ones"):
        table.add_column(name, justify="right", no_wrap=True)
    for column in inspection.columns:
        ones = "" if column.positives is None else f"{column.positives:,} ({column.positives / rows:.2%})"
        missing = f"{column.missing:,} ({column.missing / rows:.2%})" if column.missing else ""
        distinct = "many" if column.distinct is None else f"{column.distinct:,}"
        cells = (missing, _short_value(column.low), _short_value(column.high), distinct, ones)
        table.add_row(escape(column.name), escape(column.type), *map(escape, cells))
    return table


def _short_value(value: object) -> str:
    """The lowest or highest value of a column."""
    if value is None:
        return ""
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= _MAX_VALUE_WIDTH else f"{text[: _MAX_VALUE_WIDTH - 3]}..."


def loss_table(losses: Mapping[str, float], width: int) -> Table:
    """The loss of each task, as many side by side as fit."""
    name_width = min(max(map(len, losses)), MAX_NAME_WIDTH)
    pairs = max(1, (width + _GAP) // (name_width + 1 + _LOSS_WIDTH + _GAP))
    table = Table.grid(padding=(0, 1))
    for pair in range(pairs):
        table.add_column(width=name_width, no_wrap=True, style="dim")
        table.add_column(width=_LOSS_WIDTH + (_GAP - 1 if pair < pairs - 1 else 0), no_wrap=True)
    items = list(losses.items())
    for start in range(0, len(items), pairs):
        cells = [(escape(shortened(task, name_width)), f"{value:.4f}") for task, value in items[start : start + pairs]]
        table.add_row(*(cell for pair in cells for cell in pair))
    return table


def shortened(name: str, width: int) -> str:
    """A name in at most `width` characters; cuts the middle, since names mostly differ at their ends."""
    if len(name) <= width:
        return name
    end = (width - 1) // 2
    return f"{name[: width - 1 - end]}…{name[-end:]}"


def _table(title: str) -> Table:
    return Table(title=hide(title), title_justify="left", box=None, pad_edge=False, header_style="bold")
