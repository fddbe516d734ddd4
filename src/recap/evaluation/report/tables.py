"""The tables of the page, as plain cells: what a person reads, and the value by which a column sorts."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from recap.config.evaluation.metrics import format_metric
from recap.evaluation.drift import LARGE
from recap.evaluation.report.content import Content, Measured, TaskResult
from recap.evaluation.report.results import better, signed, title_of
from recap.evaluation.result import SCORE

FIRST = {"binary": ("positives", "auc", "rce", "calibration"), "regression": ("count", "mae", "rmse", "xauc")}
"""The columns of the first screen by kind of task."""
MAX_ROWS = 60
"""Rows of a table whose size grows with the square of the tasks, or with tasks and metrics."""
_CHANGES = ("auc", "rce", "rmse", "xauc")
"""Those of them whose change is shown, with a baseline."""


@dataclass(frozen=True)
class Cell:
    """One cell. All of it is text."""

    text: str
    detail: str = ""
    """A second, smaller line: the interval."""
    value: float | str = ""
    """By which the column sorts; the text if empty."""
    tone: str = ""
    """`better`, `worse` or `unclear`, for a change; `warm` or `cold` for a cell of a heat map."""
    heat: float = 0.0
    """0 to 1: how strongly a cell of a heat map is coloured."""
    task: str = ""
    """The task that the cell selects in the charts."""
    change: "Cell | None" = None
    """The change since the baseline, shown below the value."""


@dataclass(frozen=True)
class Table:
    """A table with sortable columns."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    words: frozenset[int] = field(default_factory=lambda: frozenset({0}))
    """The columns that hold words; the others hold numbers."""


def first_tables(content: Content) -> list[Table]:
    """The tables of the first screen: binary tasks, and regressions."""
    tables = []
    for kind, columns in FIRST.items():
        tasks = [task for task in content.tasks if task.is_regression == (kind == "regression")]
        names = [name for name in columns if any(name in task.metrics for task in tasks)]
        if not names:
            continue
        changed = [name for name in names if name in _CHANGES and any(_change(task, name) for task in tasks)]
        heads = [
            head for name in names for head in (title_of(name), *([f"Δ {title_of(name)}"] if name in changed else []))
        ]
        rows = [[Cell(task.task, task=task.task), *_first_cells(task, names, changed)] for task in tasks]
        tables.append(Table("Tasks" if kind == "binary" else "Regressions", ["task", *heads], rows))
    return tables


def _first_cells(task: TaskResult, names: Sequence[str], changed: Sequence[str]) -> Iterable[Cell]:
    for name in names:
        measured = task.metrics.get(name)
        yield value_cell(name, measured)
        if name in changed:
            yield change_cell(name, measured)


def metric_tables(content: Content) -> list[Table]:
    """Every metric of the score and of every task, with its interval and change: a row for each task."""
    results = [*([content.score] if content.score is not None else []), *content.tasks]
    tables = []
    for title, chosen in (
        ("Final score", [result for result in results if result.task == SCORE]),
        ("Binary tasks", [result for result in results if result.task != SCORE and not result.is_regression]),
        ("Regressions", [result for result in results if result.is_regression]),
    ):
        names = list(dict.fromkeys(name for result in chosen for name in result.metrics))
        rows = [
            [Cell("score" if result.task == SCORE else result.task), *_measured_cells(result, names)]
            for result in chosen[:MAX_ROWS]
        ]
        if rows:
            tables.append(Table(title, ["task", *map(title_of, names)], rows, cut_note(len(chosen), MAX_ROWS)))
    return tables


def _measured_cells(result: TaskResult, names: Sequence[str]) -> Iterable[Cell]:
    for name in names:
        measured = result.metrics.get(name)
        cell, change = value_cell(name, measured), change_cell(name, measured)
        yield cell if measured is None or measured.change is None else replace(cell, change=change)


def cut_note(count: int, limit: int) -> str:
    """Says that a table leaves out rows; empty if it does not."""
    return f"The first {limit} of {count:,}; the others are in report.json." if count > limit else ""


def value_cell(name: str, measured: Measured | None) -> Cell:
    """A value with its interval."""
    if measured is None:
        return Cell("–", value=math.nan)
    detail = ""
    if math.isfinite(measured.low):
        detail = f"[{shown(name, measured.low)}, {shown(name, measured.high)}]"
    return Cell(shown(name, measured.value), detail, measured.value)


def change_cell(name: str, measured: Measured | None) -> Cell:
    """A change with its interval; its tone only if it is certain."""
    if measured is None or measured.change is None:
        return Cell("–", value=math.nan)
    change = measured.change
    tone = better(name, change)
    mark = {"better": "▲ ", "worse": "▼ "}.get(tone, "")
    detail = f"[{signed(name, change.low)}, {signed(name, change.high)}]" if math.isfinite(change.low) else ""
    return Cell(mark + signed(name, change.value), detail, change.value, tone)


def strata_tables(content: Content) -> list[Table]:
    """The headline metrics of each stratum and task."""
    rows = []
    for stratum, tasks in content.strata.items():
        for task, metrics in tasks.items():
            names = FIRST["binary"] if "auc" in metrics or "rce" in metrics else FIRST["regression"]
            cells = [
                Cell(shown(name, value), value=value) for name in names if (value := metrics.get(name)) is not None
            ]
            rows.append([Cell(stratum), Cell(task), *cells])
    tables = []
    for kind, names in FIRST.items():
        chosen = [
            row for row in rows if len(row) == len(names) + 2 and (kind == "binary") == _is_binary(content, row[1].text)
        ]
        if chosen:
            heads = ["stratum", "task", *map(title_of, names)]
            tables.append(Table("Strata", heads, chosen, words=frozenset({0, 1})))
    return tables


def slice_tables(content: Content) -> list[Table]:
    """The slices that were found, the surest first."""
    slices = content.slices.get("slices", ())
    if not slices:
        return []
    rows = []
    for item in slices:
        wrong = "calibration" if item["kind"] == "calibration" else "ranking and loss"
        rows.append(
            [
                Cell(f"{item['feature']}: {item['values']}"),
                Cell(item["task"], task=item["task"]),
                Cell(wrong),
                Cell(f"{item['rows']:,}", value=item["rows"]),
                Cell(f"{item['positives']:,}", value=item["positives"]),
                _interval_cell("calibration", item["calibration"], item["calibration_interval"]),
                Cell(shown("calibration", item["calibration_of_others"]), value=item["calibration_of_others"]),
                _interval_cell("rce", item["rce"], item["rce_interval"]),
                Cell(shown("rce", item["rce_of_others"]), value=item["rce_of_others"]),
                Cell(f"{item['p']:.2g}", value=item["p"]),
            ]
        )
    heads = ["slice", "task", "worse by", "rows", "positives"]
    heads += ["calibration", "of the others", "RCE", "of the others", "p"]
    note = (
        f"Values of single columns where the model does worse than on the other rows, the surest first, out of "
        f"{content.slices['looks']:,} looks; p is corrected for all of them."
    )
    if content.slices["more"]:
        note += f" {content.slices['more']:,} more are not listed."
    if content.slices["left_out"]:
        note += f" {content.slices['left_out']:,} columns were not looked at, for lack of memory."
    return [Table("Slices", heads, rows, note, frozenset({0, 1, 2}))]


def _interval_cell(metric: str, value: float, interval: Sequence[float]) -> Cell:
    low, high = interval
    return value_cell(metric, Measured(value, low, high))


def drift_tables(content: Content) -> list[Table]:
    """How the split differs from the training rows: tasks, features and vectors."""
    drift = content.drift
    if not drift:
        return []
    tasks = [
        [
            Cell(item["task"]),
            _psi_cell(item["psi"]),
            *(_number_cell(value) for value in (*item["mean_prediction"], *item["mean_label"])),
        ]
        for item in drift["tasks"]
    ]
    features = [
        [
            Cell(item["feature"]),
            _psi_cell(item["psi"]),
            *(_number_cell(value, ".2%") for value in item["missing"]),
            Cell(_largest_shift(item["bins"])),
        ]
        for item in drift["features"][:MAX_ROWS]
    ]
    vectors = [
        [Cell(item["feature"]), *(_number_cell(value) for value in (item["cosine"], *item["norm"]))]
        for item in drift["vectors"][:MAX_ROWS]
    ]
    before, after = drift["rows"]
    note = (
        f"Samples of {before:,} training rows and {after:,} rows of the split. PSI, the population stability index: "
        "little below 0.1, a large shift above 0.25."
    )
    heads = ["mean prediction, training", "split", "mean label, training", "split"]
    tables = [
        Table("Predictions and labels", ["task", "PSI of predictions", *heads], tasks, note),
        Table(
            "Features",
            ["feature", "PSI", "missing, training", "split", "largest change of share"],
            features,
            cut_note(len(drift["features"]), MAX_ROWS),
            frozenset({0, 4}),
        ),
        Table("Vectors", ["vector", "cosine of the means", "mean length, training", "split"], vectors),
    ]
    return [table for table in tables if table.rows]


def _psi_cell(value: float) -> Cell:
    tone = "worse" if value > LARGE else ""
    return replace(_number_cell(value, ".3f"), tone=tone)


def _largest_shift(bins: Sequence[Mapping[str, Any]]) -> str:
    largest = max(bins, key=lambda item: abs(item["rows"] - item["reference"]), default=None)
    if largest is None:
        return ""
    return f"{largest['values']}: {largest['reference']:.1%} → {largest['rows']:.1%}"


def _number_cell(value: float | None, form: str = ".4g") -> Cell:
    if value is None or math.isnan(value):
        return Cell("–", value=math.nan)
    return Cell(format(value, form).replace("-", "−"), value=value)


def heat_table(title: str, corner: str, values: Mapping[str, Mapping[str, float]], note: str, digits: int = 2) -> Table:
    """A heat map: one row and one column per name; blue above 0, orange below."""
    shown = dict(list(values.items())[:MAX_ROWS])
    columns = list(dict.fromkeys(name for row in shown.values() for name in row))[:MAX_ROWS]
    rows = []
    for name, row in shown.items():
        cells = [Cell(name)]
        for column in columns:
            value = row.get(column, math.nan)
            text = "–" if math.isnan(value) else f"{value:.{digits}f}".replace("-", "−")
            heat = 0.0 if math.isnan(value) else round(min(abs(value), 1.0), 3)
            cells.append(Cell(text, value=value, tone="warm" if value >= 0 else "cold", heat=heat))
        rows.append(cells)
    return Table(title, [corner, *columns], rows, f"{note} {cut_note(len(values), MAX_ROWS)}".strip())


def words_table(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]], note: str = "") -> Table:
    """A table of words."""
    return Table(title, heads, [[Cell(text) for text in row] for row in rows], note, frozenset(range(len(heads))))


def _is_binary(content: Content, task: str) -> bool:
    return not any(result.task == task and result.is_regression for result in content.tasks)


def _change(task: TaskResult, name: str) -> bool:
    return name in task.metrics and task.metrics[name].change is not None


def shown(metric: str, value: float) -> str:
    """A value for a person, with the sign of mathematics."""
    return "–" if math.isnan(value) else format_metric(metric, value).replace("-", "−")
