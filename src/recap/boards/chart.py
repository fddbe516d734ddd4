"""`board.png`: every run of a board as a point, and the mean of each row."""

import json
import math
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import Any

from recap.boards.page import columns_of, floor_values
from recap.boards.results import Results
from recap.config.evaluation.board import BoardConfig
from recap.config.evaluation.metrics import SPECS
from recap.storage import atomic_write, writing

CHART = "board.png"
_COLOURS = {"row": "#0072b2", "floor": "#7f7f7f"}
"""Told apart by colour-blind readers (Okabe & Ito)."""
_WIDTH, _STEP, _PER_LINE = 200, 22, 4
"""Width of a panel and height of a row, in pixels; panels side by side."""


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
    names = [*board.floors, *(name for name, row in results.rows.items() if row.finished)]
    points = list(_points(board, results))

    def panel(metric: str, column: str) -> dict[str, Any]:
        value = {"field": "value", "type": "quantitative", "scale": {"zero": False}}
        x = {**value, "title": f"{SPECS[metric].title}, {column}", "axis": {"tickCount": 4}}
        y = {"field": "row", "type": "nominal", "sort": names, "title": None}
        colours = {"domain": list(_COLOURS), "range": list(_COLOURS.values())}
        colour = {"field": "kind", "type": "nominal", "legend": None, "scale": colours}
        here = [point for point in points if point["metric"] == metric and point["column"] == column]
        dots = {"type": "point", "filled": True, "opacity": 0.5}
        ticks = {"type": "tick", "thickness": 2, "size": 16}
        return {
            "width": _WIDTH,
            "height": {"step": _STEP},
            "data": {"values": here},
            "encoding": {"x": x, "y": y, "color": colour},
            "layer": [
                {"mark": dots, "transform": [{"filter": "!datum.is_mean"}]},
                {"mark": ticks, "transform": [{"filter": "datum.is_mean"}]},
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
        for name, metrics in board.floors.items():
            yield from _of_row(name, metric, "floor", {k: [v] for k, v in _floor(board, metrics, metric).items()})
        for name, row in results.rows.items():
            if row.finished:
                yield from _of_row(name, metric, "row", row.values(board, metric))


def _floor(board: BoardConfig, metrics: Mapping[str, Mapping[str, float]], metric: str) -> dict[str, float]:
    return floor_values(board, metrics.get(metric, {}))


def _of_row(name: str, metric: str, kind: str, by_column: Mapping[str, list[float]]) -> Iterator[dict[str, Any]]:
    for column, values in by_column.items():
        known = [value for value in values if math.isfinite(value)]
        point = {"row": name, "metric": metric, "column": column, "kind": kind}
        yield from ({**point, "value": value, "is_mean": False} for value in known)
        if known:
            yield {**point, "value": fmean(known), "is_mean": True}
