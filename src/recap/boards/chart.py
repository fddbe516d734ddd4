"""`board.png`: every run of a board as a point, and the mean of each row."""

import json
import math
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import Any

from recap.boards.page import columns_of, floors_of
from recap.boards.results import Results
from recap.config.evaluation.board import BoardConfig
from recap.config.evaluation.metrics import LOWER_IS_BETTER, SPECS
from recap.storage import atomic_write, writing

CHART = "board.png"
_COLOURS = {"row": "#0072b2", "floor": "#7f7f7f"}
"""Told apart by colour-blind readers (Okabe & Ito)."""
_WIDTH, _STEP, _PER_LINE = 200, 22, 4
"""Width of a panel and height of a row, in pixels; panels side by side."""
_MARGIN = 8
"""Pixels between the frame of a panel and its points."""


def write_chart(board: BoardConfig, results: Results, folder: Path) -> Path | None:
    """Draw the board into `board.png`; None without the extra `report`, or without a finished run."""
    if find_spec("vl_convert") is None or not any(row.finished for row in results.rows.values()):
        return None
    import vl_convert

    png = vl_convert.vegalite_to_png(json.dumps(chart(board, results)), scale=2)
    with writing(folder / CHART) as file, atomic_write(file) as temporary:
        temporary.write_bytes(png)
    return folder / CHART


def chart(board: BoardConfig, results: Results) -> dict[str, Any]:
    """A Vega-Lite chart: a panel for each metric and task, in it a point for a run and a tick for the mean of a row."""
    shown = {name: row for name, row in results.rows.items() if row.finished or row.failed}
    rows = [*(name for name in board.floors if any(name in floors_of(board, it) for it in board.metrics)), *shown]
    failed = [{"row": name} for name, row in shown.items() if not row.finished]
    points = list(_points(board, results))

    def panel(metric: str, column: str) -> dict[str, Any]:
        better = "← better" if metric in LOWER_IS_BETTER else "better →"
        x = {
            "field": "value",
            "type": "quantitative",
            "scale": {"zero": False, "padding": _MARGIN},
            "title": [f"{SPECS[metric].title}, {column}", better],
            "axis": {"tickCount": 4},
        }
        y = {"field": "row", "type": "nominal", "scale": {"domain": rows}, "title": None}
        colours = {"domain": list(_COLOURS), "range": list(_COLOURS.values())}
        colour = {"field": "kind", "type": "nominal", "legend": None, "scale": colours}
        here = [point for point in points if point["metric"] == metric and point["column"] == column]
        dots = {"type": "point", "filled": True, "opacity": 0.5}
        ticks = {"type": "tick", "thickness": 2, "size": 16}
        note = {"type": "text", "text": "failed", "color": _COLOURS["floor"]}
        value = {"x": x, "y": y, "color": colour}
        return {
            "width": _WIDTH,
            "height": {"step": _STEP},
            "layer": [
                {"mark": dots, "encoding": value, "data": {"values": [it for it in here if not it["is_mean"]]}},
                {"mark": ticks, "encoding": value, "data": {"values": [it for it in here if it["is_mean"]]}},
                {"mark": note, "encoding": {"x": {"value": _WIDTH / 2}, "y": y}, "data": {"values": failed}},
            ],
        }

    panels = [panel(metric, column) for metric in board.metrics for column in columns_of(board)]
    return {
        "title": {"text": f"{board.title}: a point is a seed, a tick their mean", "anchor": "start"},
        "background": "white",
        "columns": _PER_LINE,
        "concat": panels,
    }


def _points(board: BoardConfig, results: Results) -> Iterator[dict[str, Any]]:
    for metric in board.metrics:
        for name, values in floors_of(board, metric).items():
            yield from _of_row(name, metric, "floor", {column: [value] for column, value in values.items()})
        for name, row in results.rows.items():
            if row.finished:
                yield from _of_row(name, metric, "row", row.values(board, metric))


def _of_row(name: str, metric: str, kind: str, by_column: Mapping[str, list[float]]) -> Iterator[dict[str, Any]]:
    for column, values in by_column.items():
        known = [value for value in values if math.isfinite(value)]
        point = {"row": name, "metric": metric, "column": column, "kind": kind}
        yield from ({**point, "value": value, "is_mean": False} for value in known)
        if known:
            yield {**point, "value": fmean(known), "is_mean": True}
