"""The page of a report: one HTML file that fetches nothing. Every name in it is text."""

import hashlib
import json
import re
from base64 import b64encode
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from importlib.util import find_spec
from itertools import groupby
from typing import Any

from recap.errors import InputError
from recap.evaluation.checks.finding import CHECKS, SEVERITIES, CheckSpec, Finding
from recap.evaluation.plain import to_plain
from recap.evaluation.report.charts import Chart, curve_charts, importance_chart, regression_charts, training_charts
from recap.evaluation.report.content import Content
from recap.evaluation.report.tables import (
    Table,
    calibration_tables,
    drift_tables,
    first_tables,
    heat_table,
    metric_tables,
    score_tables,
    slice_tables,
    strata_tables,
    words_table,
)
from recap.evaluation.report.training import thinned
from recap.text import plural

TEMPLATES = "templates"
_POINTS, _MIN_POINTS, _ALL_POINTS = 100, 20, 2200
"""Points of a curve at most, at least where it has them, and of one curve of all tasks together."""
_MAX_TASKS = 100
"""Tasks with charts."""
_MAX_GROUPS = 30
"""Groups of features in a chart."""
_VALUES, _MIN_VALUES, _ALL_VALUES = 40, 8, 400
"""Single values of a task at most, at least where it has them, and of all tasks together."""
_PACKAGES = {"altair": "altair", "vl_convert": "vl-convert-python", "jinja2": "jinja2"}


def check_installed() -> None:
    """Raise InputError unless the packages of the extra `report` are installed."""
    missing = [package for module, package in _PACKAGES.items() if find_spec(module) is None]
    if missing:
        raise InputError(f"recap report: not installed: {', '.join(missing)}; run pip install 'recap-ranker[report]'")


def page(content: Content) -> str:
    """The page as HTML.

    Its policy allows only the scripts in it, by their checksums, and no request at all; `page.js` has Vega interpret
    expressions, so that none is compiled.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("recap.evaluation.report", TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breaks"] = _with_breaks
    environment.filters["brief"] = lambda value: f"{value:.6g}" if isinstance(value, float) else value
    charts = _charts(content)
    data = chart_data(content) | {
        "charts": {
            chart.key: {"spec": chart.spec, "columns": chart.columns} for group in charts.values() for chart in group
        }
    }
    scripts = [_library(), _template("page.js"), *([_template("what_if.js")] if content.what_if else [])]
    return environment.get_template("page.html.j2").render(
        content=content,
        charts=charts,
        tables=_tables(content),
        checks=_checks(content.findings),
        failed=_counts(content.findings),
        style=_template("page.css"),
        data=script_json(data),
        scripts=scripts,
        policy=_policy(scripts),
    )


def _with_breaks(text: str) -> Any:
    """Escaped text in which words beyond 24 characters may break, after `_`, `.`, `/` or `-` where they have them."""
    from markupsafe import Markup, escape

    words = (re.findall(r"\S{1,24}(?!\S)|\S{0,23}[_./-]|\S{1,24}", word) for word in text.split())
    return Markup(" ").join(Markup("<wbr>").join(map(escape, parts)) for parts in words)


def _counts(findings: Sequence[Finding]) -> str:
    """The number of findings of each severity, such as `1 error, 5 warnings`."""
    counts = Counter(item.severity for item in findings)
    return ", ".join(plural(counts[severity], severity) for severity in SEVERITIES if counts[severity])


def _checks(findings: Sequence[Finding]) -> list[tuple[CheckSpec, str, list[str]]]:
    """Each check that failed, with its severity and what it found."""
    groups = groupby(findings, key=lambda item: (item.code, item.severity))
    return [(CHECKS[code], severity, [item.text for item in items]) for (code, severity), items in groups]


def chart_data(content: Content) -> dict[str, Any]:
    """What the charts show: of at most `_MAX_TASKS` tasks, and fewer points of each the more tasks there are."""
    tasks = [task.task for task in content.tasks][:_MAX_TASKS]
    points = max(_MIN_POINTS, min(_POINTS, _ALL_POINTS // max(len(tasks), 1)))
    curves = {
        side: {task: _thin(by_task[task], points) for task in tasks if task in by_task}
        for side, by_task in content.curves.items()
    }
    limit = max(_MIN_VALUES, min(_VALUES, _ALL_VALUES // max(len(tasks), 1)))
    importance: dict[str, list[Any]] = {}
    for task in tasks:
        rows = [[name, *values] for name, by_task in content.importance.items() if (values := by_task.get(task))]
        importance[task] = sorted(rows, key=lambda row: -row[1])[:_MAX_GROUPS]
    return {
        "training": content.training,
        "curves": curves,
        "importance": importance if content.importance else {},
        "values": {task: _largest(content.value_importance.get(task, {}), limit) for task in tasks},
        "what_if": content.what_if,
    }


def _largest(values: Mapping[str, Sequence[tuple[str, float]]], limit: int) -> list[Any]:
    """The `limit` values of all features that move the logit most, the largest first, with three digits."""
    rows = [(name, float(f"{moved:.3g}")) for listed in values.values() for name, moved in listed]
    return sorted(rows, key=lambda row: -row[1])[:limit]


def _thin(value: Any, points: int) -> Any:
    """The same curves with at most `points` values each, evenly spread."""
    if isinstance(value, dict):
        return {name: _thin(item, points) for name, item in value.items()}
    return thinned(value, points) if isinstance(value, list) else value


def _charts(content: Content) -> dict[str, list[Chart]]:
    """Section → its charts."""
    kinds = {task.is_regression for task in content.tasks}
    measure = "AUC or XAUC" if len(kinds) > 1 else "XAUC" if True in kinds else "AUC"
    regressions, binary = (bool(content.curves) and kind in kinds for kind in (True, False))
    uncalibrated = any(
        "before calibration" in curves.get("reliability", ())
        for by_task in content.curves.values()
        for curves in by_task.values()
    )
    return {
        "training": training_charts(measure) if content.training else [],
        "curves": [
            *(curve_charts(uncalibrated=uncalibrated) if binary else []),
            *(regression_charts() if regressions else []),
        ],
        "importance": [importance_chart(measure)] if content.importance else [],
    }


def _tables(content: Content) -> dict[str, list[Table]]:
    """Section → its tables."""
    tables: dict[str, list[Table]] = {
        "tasks": first_tables(content),
        "score": score_tables(content),
        "calibration": calibration_tables(content),
        "metrics": metric_tables(content),
        "strata": [*slice_tables(content), *strata_tables(content)],
        "drift": drift_tables(content),
        "gates": [],
        "conflicts": [],
        "config": [],
    }
    if content.gates:
        note = "Mean weight of each expert for each gate; the weights of a gate sum to 1."
        tables["gates"] = [heat_table("Gates", "gate", content.gates, note, 3)]
    if content.conflicts:
        note = (
            "Mean cosine similarity of the gradients of two tasks: below 0 (orange) they pull in opposite directions."
        )
        tables["conflicts"] = [heat_table("Task conflicts", "task", content.conflicts, note)]
    if content.config_changes:
        tables["config"] = [
            words_table("Changed settings", ["setting", "baseline", "this model"], content.config_changes)
        ]
    return tables


def script_json(value: Any) -> str:
    """JSON that may stand in a script element: it holds no `<`, so nothing in it ends the element."""
    text = json.dumps(to_plain(value), allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _policy(scripts: list[str]) -> str:
    hashes = " ".join(f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _template(name: str) -> str:
    return (resources.files("recap.evaluation.report") / TEMPLATES / name).read_text(encoding="utf-8")


@cache
def _library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script."""
    import vl_convert

    script: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")
