"""The chart of a backtest: each metric by window, with its intervals, as an SVG file."""

import json
import math
from collections.abc import Collection, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from recap.backtest.record import CHART, Fold, Record
from recap.config.evaluation.metrics import SPECS, TaskKind
from recap.storage import replace_text

HEADLINES: dict[TaskKind, tuple[str, ...]] = {"binary": ("auc", "rce", "calibration"), "regression": ("xauc", "rmse")}
"""Kind of task → the metrics of the table and the chart."""
_COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#7f7f7f"]
"""Told apart by colour-blind readers (Okabe & Ito)."""
_MIN_WIDTH, _STEP = 420, 9
"""Width of the chart, and of a task in a window, in pixels."""


def write_chart(record: Record, regressions: Collection[str], folder: Path) -> Path | None:
    """Draw the folds into `backtest.svg`; None without the extra `report`."""
    if find_spec("vl_convert") is None:
        return None
    import vl_convert

    svg = vl_convert.vegalite_to_svg(json.dumps(chart(record, regressions)))
    replace_text(folder / CHART, svg)
    return folder / CHART


def chart(record: Record, regressions: Collection[str]) -> dict[str, Any]:
    """A Vega-Lite chart: a panel per metric, a line per task, a point with its interval per window."""
    values = [value for fold in record.folds for value in _values(fold, regressions)]
    metrics = list(dict.fromkeys(value["metric"] for value in values))
    tasks = {"field": "task", "type": "nominal", "sort": None}
    shared = {
        "x": {"field": "window", "type": "ordinal", "title": "evaluated window", "axis": {"labelAngle": -30}},
        "xOffset": tasks,
        "color": tasks | {"title": "task", "scale": {"range": _COLOURS}},
    }

    def panel(metric: str) -> dict[str, Any]:
        title = SPECS[metric].title + (" (%)" if metric == "rce" else "")
        is_ratio = metric == "calibration"
        scale = {"type": "log", "nice": False} if is_ratio else {"zero": False}
        axis = {"field": "value", "type": "quantitative", "title": title, "scale": scale}
        interval = {"y": axis | {"field": "low"}, "y2": {"field": "high"}}
        layers: list[dict[str, Any]] = [
            {"mark": {"type": "line", "opacity": 0.5}, "encoding": shared | {"y": axis}},
            {"mark": {"type": "rule"}, "encoding": shared | interval, "transform": [{"filter": "isValid(datum.low)"}]},
            {"mark": {"type": "point", "filled": True, "opacity": 1}, "encoding": shared | {"y": axis}},
        ]
        if is_ratio:
            best = {"y": {"datum": 1, "type": "quantitative"}}
            layers.insert(0, {"mark": {"type": "rule", "color": "#777", "strokeDash": [4, 4]}, "encoding": best})
        return {
            "width": max(_MIN_WIDTH, _STEP * len({(value["window"], value["task"]) for value in values})),
            "height": 180,
            "transform": [{"filter": {"field": "metric", "equal": metric}}],
            "layer": layers,
        }

    return {
        "title": "Each window, evaluated by a model trained before it",
        "background": "white",
        "data": {"values": values},
        "vconcat": [panel(metric) for metric in metrics],
    }


def _values(fold: Fold, regressions: Collection[str]) -> Iterator[dict[str, Any]]:
    for task, metrics in fold.metrics.items():
        for name in HEADLINES["regression" if task in regressions else "binary"]:
            value = metrics.get(name, math.nan)
            if not math.isfinite(value) or (name == "calibration" and value <= 0):  # which has no logarithm
                continue
            low, high = fold.intervals.get(task, {}).get(name, (math.nan, math.nan))
            bounds = {"low": low, "high": high} if math.isfinite(low) and math.isfinite(high) else {}
            if name == "calibration" and low <= 0:  # which has no logarithm
                bounds["low"] = value / 10
            yield {"window": fold.window, "task": task, "metric": name, "value": value, **bounds}
