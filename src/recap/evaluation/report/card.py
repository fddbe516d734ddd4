"""The model card: a report in Markdown, short enough for a README."""

import math
import re

from recap.config.evaluation.metrics import spec_of
from recap.evaluation.report.content import Content, Measured, TaskResult
from recap.evaluation.report.results import change_text, shown
from recap.text import shorten

_BINARY = ("positives", "auc", "rce", "calibration")
_REGRESSION = ("count", "mae", "rmse", "xauc")


def model_card(content: Content) -> str:
    """The card as Markdown, in which names are text: their special characters are escaped."""
    lines = [
        f"# {_text(content.title)}",
        "",
        f"**{_text(content.verdict.headline)}.** {_text(content.verdict.text)}",
        "",
        f"Checkpoint `{content.model}`, evaluated on {content.rows:,} rows of the split {_text(content.split)}"
        + (f", compared with {_text(content.baseline)}" if content.baseline else "")
        + f". Intervals are of 95%{', by users' if content.users else ''}.",
        "",
    ]
    for columns, tasks in (
        (_BINARY, [task for task in content.tasks if not task.is_regression]),
        (_REGRESSION, [task for task in content.tasks if task.is_regression]),
    ):
        lines += _table(columns, tasks)
    lines += [f"- {_text(remark)}" for remark in content.remarks]
    if content.findings:
        lines += ["", "## Checks", ""]
        lines += [_text(f"{item.severity} {item.code}: {item.text}", "- ") for item in content.findings]
    for heading, values in content.facts.items():
        lines += ["", f"## {_text(heading)}", "", *(_text(f"{name}: {value}", "- ") for name, value in values.items())]
    return "\n".join(lines).rstrip() + "\n"


def _table(columns: tuple[str, ...], tasks: list[TaskResult]) -> list[str]:
    names = [name for name in columns if any(name in task.metrics for task in tasks)]
    if not names:
        return []
    titles = [spec.title if (spec := spec_of(name)) is not None else name for name in names]
    rows = [f"| task | {' | '.join(titles)} |", f"|---|{'--:|' * len(names)}"]
    for task in tasks:
        cells = [_cell(name, task.metrics[name]) if name in task.metrics else "-" for name in names]
        rows.append(f"| {_text(task.task)} | {' | '.join(cells)} |")
    return [*rows, ""]


def _cell(name: str, cell: Measured) -> str:
    text = shown(name, cell.value)
    if math.isfinite(cell.low):
        text += f" [{shown(name, cell.low)}, {shown(name, cell.high)}]"
    if cell.change is not None and (spec := spec_of(name)) is not None and spec.better is not None:
        text += f" ({change_text(name, cell.change)})"
    return text


def _text(value: str, prefix: str = "") -> str:
    """A value as text of Markdown, on one line."""
    return prefix + re.sub(r"([\\`*_{}\[\]<>#|~$!])", r"\\\1", shorten(" ".join(value.split()), 1000))
