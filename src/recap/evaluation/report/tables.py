"""The tables of the page, as plain cells: what a person reads, and the value by which a column sorts."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from recap.evaluation.drift import LARGE
from recap.evaluation.observers.uncalibrated import PROBABILITY_METRICS
from recap.evaluation.report.content import Content, Measured, TaskResult
from recap.evaluation.report.results import OF_ORDER, better, shown, signed, title_of, typeset

FIRST = {"binary": ("positives", "auc", "rce", "calibration"), "regression": ("count", "mae", "rmse", "xauc")}
"""The columns of the first screen by kind of task."""
_CONTRIBUTION, _SHARE = "contribution/", "share/"
"""Of the metrics of the score, those with the name of a task."""
MAX_ROWS = 60
"""Rows of a table whose size grows with the square of the tasks, or with tasks and metrics."""
_MIN_P = 1e-16
"""Below it, a p-value is only said to be smaller: the arithmetic has no more digits."""
_CHANGES = ("auc", "rce", "mae", "rmse", "xauc")
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


def score_tables(content: Content) -> list[Table]:
    """How well the score orders lists, and what each task adds to it."""
    if content.score is None:
        return []
    metrics, tables = content.score.metrics, []
    rows = [_ranking_row(name, metrics) for name in metrics if name.startswith(OF_ORDER)]
    if rows:
        heads = ["measure", "this model", "random order", "best order", *(["change"] if content.baseline else [])]
        lists = metrics["lists"].value if "lists" in metrics else math.nan
        note = (
            f"Of {lists:,.0f} lists. Engagement: the mean of Σ weight · label over the first rows. Uplift: its place "
            "between a random order, 0, and the best one, 1."
        )
        cut = len(heads)
        tables.append(Table("Order of lists", heads, [row[:cut] for row in rows], note))
    tasks = [name.removeprefix(_SHARE) for name in metrics if name.startswith(_SHARE)]
    shares = sorted(tasks, key=lambda task: -metrics[f"{_SHARE}{task}"].value)
    if shares:
        known = {result.task for result in content.tasks}
        tasks_of = [[Cell(task, task=task if task in known else ""), *_parts_of(task, metrics)] for task in shares]
        heads = ["task", "share of the score", "mean of |weight · probability|"]
        tables.append(Table("What each task adds to the score", heads, tasks_of))
    return tables


def _ranking_row(name: str, metrics: Mapping[str, Measured]) -> list[Cell]:
    measured = metrics[name]
    kind, _, rank = name.partition("_")
    random, best = (metrics.get(f"{bound}_{rank}") for bound in ("random", "best"))
    if kind == "engagement":
        title, bounds = f"engagement of the first {rank}", [value_cell(name, random), value_cell(name, best)]
    elif kind == "uplift":
        title, bounds = f"uplift of the first {rank}", [Cell("0", value=0.0), Cell("1", value=1.0)]
    else:
        title, bounds = "NDCG", [Cell("–", value=math.nan), Cell("1", value=1.0)]
    return [Cell(title), value_cell(name, measured), *bounds, change_cell(name, measured)]


def _parts_of(task: str, metrics: Mapping[str, Measured]) -> Iterable[Cell]:
    share = metrics[f"{_SHARE}{task}"]
    detail = f"[{share.low:.1%}, {share.high:.1%}]" if math.isfinite(share.low) else ""
    yield Cell("–" if math.isnan(share.value) else f"{share.value:.1%}", detail, share.value)
    yield value_cell(f"{_CONTRIBUTION}{task}", metrics.get(f"{_CONTRIBUTION}{task}"))


def _change_of(name: str, measured: Measured) -> Cell | None:
    return change_cell(name, measured) if measured.change is not None else None


def _first_cells(task: TaskResult, names: Sequence[str], changed: Sequence[str]) -> Iterable[Cell]:
    for name in names:
        measured = task.metrics.get(name)
        yield value_cell(name, measured)
        if name in changed:
            yield change_cell(name, measured)


def metric_tables(content: Content) -> list[Table]:
    """Every metric of every task, with its interval and change: a row for each task."""
    tables = []
    for title, chosen in (
        ("Binary tasks", [result for result in content.tasks if not result.is_regression]),
        ("Regressions", [result for result in content.tasks if result.is_regression]),
    ):
        names = dict.fromkeys(name for result in chosen for name in result.metrics)
        rows = [[Cell(result.task), *_measured_cells(result, list(names))] for result in chosen[:MAX_ROWS]]
        if rows:
            tables.append(Table(title, ["task", *map(title_of, names)], rows, cut_note(len(chosen), MAX_ROWS)))
    return tables


def _measured_cells(result: TaskResult, names: Sequence[str]) -> Iterable[Cell]:
    for name in names:
        measured = result.metrics.get(name)
        cell = value_cell(name, measured)
        yield cell if measured is None else replace(cell, change=_change_of(name, measured))


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


def calibration_tables(content: Content) -> list[Table]:
    """The metrics that calibration changes, before and after it."""
    names = [name for name in PROBABILITY_METRICS if any(name in before for before in content.uncalibrated.values())]
    rows = [
        [
            Cell(task.task, task=task.task),
            *(_changed_cell(name, before.get(name, math.nan), task.metrics.get(name)) for name in names),
        ]
        for task in content.tasks
        if (before := content.uncalibrated.get(task.task)) is not None
    ]
    if not rows:
        return []
    return [Table("Before → after calibration", ["task", *map(title_of, names)], rows)]


def _changed_cell(name: str, before: float, after: Measured | None) -> Cell:
    value = after.value if after is not None else math.nan
    return Cell(f"{shown(name, before)} → {shown(name, value)}", value=value)


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
                Cell(_p_text(item["p"]), value=item["p"]),
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


def _p_text(p: float) -> str:
    return f"{p:.2g}" if p >= _MIN_P else f"< {_MIN_P:.0e}"


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


def _number_cell(value: float | None, form: str = "#.4g") -> Cell:
    if value is None or math.isnan(value):
        return Cell("–", value=math.nan)
    return Cell(typeset(format(value, form if abs(value) < 1000 else ",.0f")), value=value)


def heat_table(title: str, corner: str, values: Mapping[str, Mapping[str, float]], note: str, digits: int = 2) -> Table:
    """A heat map: one row and one column per name; blue above 0, orange below."""
    shown = dict(list(values.items())[:MAX_ROWS])
    columns = list(dict.fromkeys(name for row in shown.values() for name in row))[:MAX_ROWS]
    rows = []
    for name, row in shown.items():
        cells = [Cell(name)]
        for column in columns:
            value = row.get(column, math.nan)
            text = "–" if math.isnan(value) else typeset(f"{value:.{digits}f}")
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
