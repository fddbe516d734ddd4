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
    by_window = {"field": "window", "type": "ordinal", "title": "evaluated window", "axis": {"labelAngle": -30}}
    colour = {"field": "task", "type": "nominal", "title": "task", "scale": {"range": _COLOURS}, "sort": None}

    def panel(metric: str) -> dict[str, Any]:
        title = SPECS[metric].title + (" (%)" if metric == "rce" else "")
        scale = {"type": "log"} if metric == "calibration" else {"zero": False}
        axis = {"field": "value", "type": "quantitative", "title": title, "scale": scale}
        layers: list[dict[str, Any]] = [
            {"mark": {"type": "line", "point": True}, "encoding": {"y": axis}},
            {
                "mark": {"type": "rule", "opacity": 0.5},
                "encoding": {"y": {"field": "low", "type": "quantitative"}, "y2": {"field": "high"}},
                "transform": [{"filter": "isValid(datum.low)"}],
            },
        ]
        if metric == "calibration":
            layers.insert(0, {"mark": {"type": "rule", "color": "#999", "strokeDash": [4, 4]}, "encoding": {"y": _ONE}})
        return {
            "width": 480,
            "height": 180,
            "transform": [{"filter": {"field": "metric", "equal": metric}}],
            "encoding": {"x": by_window},
            "layer": [
                layer if "color" in layer["mark"] else layer | {"encoding": layer["encoding"] | {"color": colour}}
                for layer in layers
            ],
        }

    return {
        "title": "Each window, evaluated by a model trained before it",
        "background": "white",
        "data": {"values": values},
        "vconcat": [panel(metric) for metric in metrics],
    }


_ONE = {"datum": 1, "type": "quantitative"}


def _values(fold: Fold, regressions: Collection[str]) -> Iterator[dict[str, Any]]:
    for task, metrics in fold.metrics.items():
        for name in HEADLINES["regression" if task in regressions else "binary"]:
            value = metrics.get(name, math.nan)
            if not math.isfinite(value) or (name == "calibration" and value <= 0):  # which has no logarithm
                continue
            low, high = fold.intervals.get(task, {}).get(name, (math.nan, math.nan))
            bounds = {"low": low, "high": high} if math.isfinite(low) and math.isfinite(high) else {}
            yield {"window": fold.window, "task": task, "metric": name, "value": value, **bounds}
