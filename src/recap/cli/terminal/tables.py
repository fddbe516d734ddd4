"""Tables for the terminal. To fit the width, they drop columns and shorten names, but never cut numbers."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from recap.config.evaluation.metrics import TaskKind, bound_of, format_metric, metrics_of, spec_of
from recap.config.file.environment import hide
from recap.data.tools.inspect import Inspection
from recap.text import plural

if TYPE_CHECKING:
    from recap.evaluation.calibrate.gain import SplitGain
    from recap.evaluation.drift import Drift
    from recap.evaluation.slices import Slices

MAX_NAME_WIDTH = 24
"""Characters of a task's name, if space is short."""
_GAIN_WIDTH = 64
"""Columns of the table of a calibration, without the names of tasks."""
_LOSS_WIDTH = 7
_GAP = 3
"""Spaces between pairs of task and loss."""
_MAX_VALUE_WIDTH = 20
_MAX_ROWS = 20
"""Slices, and drifting features, that are shown."""
_FIELD = "field_rce_"

_MARGINS = {"calibration": 4.6, "rce": 4.4, "auc": 0.5, "xauc": 0.5}
"""The metrics whose interval a table shows, with a rank among those of columns: the highest is dropped first."""

_RANK_OF_OTHERS = 10
"""That of metrics which are no usual columns: above all."""
Evaluation = Mapping[str, Mapping[str, float]]
"""Task → metric → value."""
Intervals = Mapping[str, Mapping[str, tuple[float, float]]]
"""Task → metric → (low, high)."""


def metric_tables(
    title: str, evaluation: Evaluation, width: int, intervals: Intervals | None = None
) -> Iterator[Table]:
    """Metrics, one row per task; binary tasks and regressions in separate tables.

    Of the metrics of `_MARGINS`, half the width of the interval is shown too, as far as it fits.
    """
    regressions = {task: metrics for task, metrics in evaluation.items() if _is_regression(metrics)}
    binary = {task: metrics for task, metrics in evaluation.items() if task not in regressions}
    kinds: dict[TaskKind, Evaluation] = {"binary": binary, "regression": regressions}
    for kind, tasks in kinds.items():
        columns = [spec.name for spec in metrics_of(kind) if kind in spec.column_of]
        reported = list(dict.fromkeys(name for metrics in tasks.values() for name in metrics))
        # Without any of the usual columns, all that was asked for.
        names = [name for name in columns if name in reported] or [name for name in reported if spec_of(name)]
        rows = {
            task: [format_metric(name, metrics.get(name, math.nan)) for name in names]
            for task, metrics in tasks.items()
        }
        margins = {
            name: [_margin(name, (intervals or {}).get(task, {}).get(name)) for task in tasks]
            for name in names
            if name in _MARGINS
        }
        if rows:
            yield _task_table(title, names, rows, width, margins)


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


def _margin(metric: str, interval: tuple[float, float] | None) -> str:
    """Half the width of an interval; `-` where it is undefined."""
    return format_metric(metric, math.nan if interval is None else (interval[1] - interval[0]) / 2)


def _task_table(
    title: str,
    names: Sequence[str],
    rows: Mapping[str, Sequence[str]],
    width: int,
    margins: Mapping[str, Sequence[str]] | None = None,
) -> Table:
    """`margins`: by column, half the width of the interval of each row."""
    columns: dict[str, Sequence[str]] = dict(zip(names, zip(*rows.values(), strict=True), strict=True))
    full = {name: _with_margins(columns[name], texts) for name, texts in (margins or {}).items() if {*texts} != {"-"}}
    widths = {name: 2 + max(map(len, (name, *full.get(name, values)))) for name, values in columns.items()}
    longest = max(map(len, ("task", *rows)))
    optional: list[tuple[float, str, bool]] = [(_column_rank(name), name, False) for name in widths]
    optional += [(_MARGINS[name], name, True) for name in full]
    for rank, name, is_margin in sorted(optional, reverse=True):
        if rank and min(longest, MAX_NAME_WIDTH) + sum(widths.values()) > width:
            if not is_margin:
                del widths[name]
            elif name in widths:
                widths[name] = 2 + max(map(len, (name, *columns[name])))
                del full[name]
    name_width = max(min(longest, MAX_NAME_WIDTH), min(longest, width - sum(widths.values())))
    table = plain_table(title)
    # A title that fits the terminal has one line, even above a narrow table.
    table.title = Text(hide(title), "table.title", no_wrap=len(title) <= width, overflow="ignore")
    table.add_column("task", no_wrap=True, min_width=name_width)
    for name in widths:
        table.add_column(name, justify="right", no_wrap=True)
    shown = columns | full
    for index, task in enumerate(rows):
        table.add_row(escape(shortened(task, name_width)), *(shown[name][index] for name in widths))
    return table


def with_margin(metric: str, value: float, interval: tuple[float, float] | None) -> str:
    """A value with half the width of its interval, if that is defined; `-` where the value is not."""
    text, margin = format_metric(metric, value), _margin(metric, interval)
    return text if "-" in (text, margin) else f"{text} ± {margin}"


def _with_margins(values: Sequence[str], margins: Sequence[str]) -> list[str]:
    """Such as `0.8509 ± 0.0038`, with ± in one column; an undefined value alone."""
    width = max(map(len, margins))
    pairs = zip(values, margins, strict=True)
    return [value if value in ("-", "inf") else f"{value} ± {margin:>{width}}" for value, margin in pairs]


def _is_regression(metrics: Mapping[str, float]) -> bool:
    """Whether a task has a metric that only regressions have."""
    return any(spec is not None and spec.of == ("regression",) for spec in map(spec_of, metrics))


def _column_rank(name: str) -> int:
    spec = spec_of(name)
    if spec is None:
        return 0
    return spec.column_rank if spec.column_of else _RANK_OF_OTHERS


def change_table(title: str, before: Evaluation, after: Evaluation, width: int) -> Table:
    """The metrics of `before`, each as BEFORE → AFTER; one row per task."""
    names = list(next(iter(before.values())))
    rows = {
        task: [
            f"{format_metric(name, metrics[name])} → {format_metric(name, after[task].get(name, math.nan))}"
            for name in names
        ]
        for task, metrics in before.items()
    }
    return _task_table(title, names, rows, width)


def score_table(title: str, score: Mapping[str, float], intervals: Mapping[str, tuple[float, float]]) -> Table:
    """The engagement at the top of lists: one row per rank k."""
    table = plain_table(title)
    for name in ("first rows", "engagement", "random order", "best order", "uplift"):
        table.add_column(name, justify="right", no_wrap=True)
    for k in [int(name.removeprefix("uplift_")) for name in score if name.startswith("uplift_")]:
        names = [f"{name}_{k}" for name in ("engagement", "random", "best", "uplift")]
        cells = [format_metric(name, score[name]) for name in names]
        for index in (0, 3):
            cells[index] = with_margin(names[index], score[names[index]], intervals.get(names[index]))
        table.add_row(str(k), *cells)
    return table


def score_text(score: Mapping[str, float], intervals: Mapping[str, tuple[float, float]]) -> str:
    """The order of lists, and the share of each task in the score, the largest first."""
    of_lists = "no NDCG of the score, because there are no lists (features.user, features.request); "
    if "ndcg" in score:
        ndcg = with_margin("ndcg", score["ndcg"], intervals.get("ndcg"))
        of_lists = f"NDCG {ndcg} of {plural(int(score['lists']), 'list')}; "
    shares = {name.removeprefix("share/"): share for name, share in score.items() if name.startswith("share/")}
    ordered = sorted(shares.items(), key=lambda item: -item[1])
    return of_lists + "shares of the score: " + ", ".join(f"{task} {share:.1%}" for task, share in ordered)


def gain_table(gain: "SplitGain", width: int) -> Table:
    """What a calibration changed: one row per task, in at least 80 columns."""
    table = plain_table(f"{gain.split}, {gain.rows:,} rows, before → after calibration")
    table.add_column("task", no_wrap=True)
    fields = [name for name in gain.metrics if name.startswith(_FIELD)]
    names = ["rce", "calibration", *(fields[:1] or ["ece"])]
    for name in ("Δ log loss", *(name.replace(_FIELD, "field-rce ") for name in names)):
        table.add_column(escape(shortened(name, 15)), justify="right", no_wrap=True)
    for task, change in gain.tasks.items():
        cells = [f"{-change.log_loss.value:+.5f}"]
        for name in names:
            before, after = change.before[name], change.after[name]
            margin = f" ± {after.half_width():.2f}" if name == "calibration" else ""
            digits = {"ece": 4, "rce": 1}.get(name, 2)
            cells.append(f"{before.value:.{digits}f} → {after.value:.{digits}f}{margin}")
        table.add_row(escape(shortened(task, max(width - _GAIN_WIDTH, 16))), *cells)
    return table


def gate_table(title: str, gates: Mapping[str, Mapping[str, float]]) -> Table:
    """Mean weight of each expert, one row per gate."""
    table = plain_table(title)
    table.add_column("gate", no_wrap=True)
    table.add_column("mean weight of each expert")
    for gate, weights in gates.items():
        table.add_row(escape(gate), escape("  ".join(f"{name} {mean:.3f}" for name, mean in weights.items())))
    return table


def field_table(title: str, evaluation: Evaluation, intervals: Intervals) -> Table | None:
    """Field-RCE with half the width of its interval, one row per task and one column per feature; None without any."""
    names = list(dict.fromkeys(name for metrics in evaluation.values() for name in metrics if name.startswith(_FIELD)))
    if not names:
        return None
    table = plain_table(title)
    table.add_column("task", no_wrap=True)
    for name in names:
        table.add_column(escape(shortened(name.removeprefix(_FIELD), MAX_NAME_WIDTH)), justify="right", no_wrap=True)
    for task, metrics in evaluation.items():
        if any(name in metrics for name in names):
            of_task = intervals.get(task, {})
            cells = [with_margin(name, metrics.get(name, math.nan), of_task.get(name)) for name in names]
            table.add_row(escape(shortened(task, MAX_NAME_WIDTH)), *cells)
    return table


def slice_table(title: str, slices: "Slices") -> Table:
    """The slices that do worse than the other rows, in the order of the result."""
    table = plain_table(title)
    for name in ("slice", "task"):
        table.add_column(name, no_wrap=True)
    for name in ("worse in", "rows", "positives", "calibration", "of others", "RCE", "of others", "p"):
        table.add_column(name, justify="right", no_wrap=True)
    for item in slices.slices[:_MAX_ROWS]:
        name = f"{shortened(item.feature, MAX_NAME_WIDTH)} = {shortened(item.values, MAX_NAME_WIDTH)}"
        numbers = [
            f"{item.rows:,}",
            f"{item.positives:,}",
            with_margin("calibration", item.calibration, item.calibration_interval),
            format_metric("calibration", item.calibration_of_others),
            format_metric("rce", item.rce),
            format_metric("rce", item.rce_of_others),
            f"{item.p:.1e}",
        ]
        table.add_row(
            escape(name), escape(shortened(item.task, MAX_NAME_WIDTH)), item.kind.replace("rce", "RCE"), *numbers
        )
    return table


def slices_text(split: str, slices: "Slices") -> str:
    """How much was looked at, and what is not shown."""
    hidden = max(len(slices.slices) - _MAX_ROWS, 0) + slices.more
    text = f"{split}: {slices.looks:,} looks at values of columns, p corrected for all of them"
    text += "" if slices.slices else "; no slice does worse than the other rows"
    text += f"; {hidden:,} more slices" if hidden else ""
    return text + (f"; {plural(slices.left_out, 'column')} not looked at, to bound memory" if slices.left_out else "")


def drift_tables(split: str, drift: "Drift") -> Iterator[Table]:
    """The features that differ most from training rows, then the tasks."""
    features = plain_table(f"drift of {split} from training rows")
    features.add_column("feature", no_wrap=True)
    for name in ("PSI", "missing or unknown", "cosine of means"):
        features.add_column(name, justify="right", no_wrap=True)
    for item in drift.features[:_MAX_ROWS]:
        missing = " → ".join(f"{share:.2%}" for share in item.missing)
        features.add_row(escape(shortened(item.feature, 2 * MAX_NAME_WIDTH)), f"{item.psi:.4f}", missing, "")
    for vector in drift.vectors[:_MAX_ROWS]:
        features.add_row(escape(shortened(vector.feature, 2 * MAX_NAME_WIDTH)), "", "", f"{vector.cosine:.4f}")
    yield features
    tasks = plain_table("")
    tasks.add_column("task", no_wrap=True)
    for name in ("PSI of predictions", "mean prediction", "mean label"):
        tasks.add_column(name, justify="right", no_wrap=True)
    for task in drift.tasks:
        means = [" → ".join(f"{mean:.5g}" for mean in pair) for pair in (task.mean_prediction, task.mean_label)]
        tasks.add_row(escape(shortened(task.task, MAX_NAME_WIDTH)), f"{task.psi:.4f}", *means)
    yield tasks


def inspection_table(inspection: Inspection) -> Table:
    """The columns of data files, one row per column."""
    rows, files = inspection.rows, inspection.files
    table = plain_table(f"{rows:,} rows of {inspection.format} in {plural(files, 'file')}")
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


def plain_table(title: str) -> Table:
    """A table without columns yet, with a bold header and no lines."""
    return Table(title=hide(title), title_justify="left", box=None, pad_edge=False, header_style="bold")
