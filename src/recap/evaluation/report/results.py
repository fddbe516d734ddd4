"""Results of the model and of the baseline side by side, and the verdict."""

import math
import re
from collections.abc import Mapping, Sequence

from recap.config.evaluation.metrics import METRICS, format_metric, spec_of
from recap.evaluation.compare import Comparison, headline_of
from recap.evaluation.metrics.estimate import Difference
from recap.evaluation.report.content import Measured, State, TaskResult, Verdict
from recap.evaluation.result import SCORE, SplitResult
from recap.text import plural

_HEADLINES = {
    "better": "Better than the baseline",
    "worse": "Worse than the baseline",
    "mixed": "Better and worse",
    "cannot be told": "No certain difference",
}
OF_ORDER = ("ndcg", "engagement_", "uplift_")
"""The metrics of the final score that are better higher."""
_STATES: dict[str, State] = {"better": "better", "worse": "worse", "mixed": "mixed", "cannot be told": "unclear"}


def task_results(
    result: SplitResult, baseline: SplitResult | None, comparison: Comparison | None, regressions: Sequence[str]
) -> tuple[list[TaskResult], TaskResult | None]:
    """The metrics of each task and those of the score, if there are any, with changes if there is a `comparison`."""

    def measured(task: str, metrics: Mapping[str, float], others: Mapping[str, float]) -> dict[str, Measured]:
        intervals = result.intervals.get(task, {})
        changes = comparison.differences.get(task, {}) if comparison is not None else {}
        unknown = (math.nan, math.nan)
        return {
            name: Measured(value, *intervals.get(name, unknown), others.get(name, math.nan), changes.get(name))
            for name, value in metrics.items()
        }

    tasks = [
        TaskResult(
            task, task in regressions, measured(task, metrics, baseline.metrics.get(task, {}) if baseline else {})
        )
        for task, metrics in result.metrics.items()
    ]
    score = measured(SCORE, result.score, baseline.score if baseline else {})
    return tasks, TaskResult(SCORE, is_regression=False, metrics=score) if score else None


def verdict(comparison: Comparison | None, tasks: Sequence[TaskResult], users: int) -> Verdict:
    """The verdict of `comparison`; the mean of each headline metric if there is none."""
    if comparison is None:
        return _alone(tasks, users)
    outcome = comparison.verdict.outcome
    text = re.sub(r"(?<!\w)-(?=\d)", "−", comparison.verdict.text.removeprefix(f"{outcome}: "))
    return Verdict(_STATES[outcome], _HEADLINES[outcome], text[:1].upper() + text[1:] + ".")


def _alone(tasks: Sequence[TaskResult], users: int) -> Verdict:
    values: dict[str, list[float]] = {}
    for task in tasks:
        name = headline_of(task.metrics)
        if name is not None and math.isfinite(task.metrics[name].value):
            values.setdefault(name, []).append(task.metrics[name].value)
    means = [
        f"Mean {title_of(name)} {format_metric(name, sum(values[name]) / len(values[name]))} of "
        f"{plural(len(values[name]), 'task')}"
        for name in (spec.name for spec in METRICS)
        if name in values
    ]
    on = f" on {plural(users, 'user')}" if users else ""
    text = f"{', '.join(means) or 'No task has an AUC'}{on}. Add --baseline RUN to compare with another model."
    return Verdict("alone", "Evaluated alone", text)


def better(metric: str, change: Difference) -> str:
    """Whether a change is "better", "worse", or "unclear" as its interval contains 0 or the metric has no direction."""
    spec = spec_of(metric)
    direction = spec.better if spec is not None else "higher" if metric.startswith(OF_ORDER) else None
    if direction is None or not change.is_certain:
        return "unclear"
    return "better" if (change.value > 0) == (direction == "higher") else "worse"


def change_text(metric: str, change: Difference) -> str:
    """A change with its interval, such as `+0.0123 [+0.0081, +0.0165]`."""
    return f"{signed(metric, change.value)} [{signed(metric, change.low)}, {signed(metric, change.high)}]"


def shown(metric: str, value: float) -> str:
    """A value for a person, with the sign of mathematics, and none where it rounds to 0."""
    return "–" if math.isnan(value) else typeset(format_metric(metric, value))


def typeset(text: str) -> str:
    """A formatted number as it is printed: with a minus sign, which 0 has not, and ∞."""
    return text.replace("-", "−" if re.search(r"[1-9]|inf", text) else "").replace("inf", "∞")


def signed(metric: str, value: float) -> str:
    """The value of a change, always with its sign."""
    text = shown(metric, value)
    return f"+{text}" if value > 0 and re.search(r"[1-9∞]", text) else text


def title_of(metric: str) -> str:
    """The name of a metric in prose; that of `hit_at_3` is `hit at 3`."""
    spec = spec_of(metric)
    return metric.replace("_", " ") if spec is None or spec.at_ranks else spec.title
