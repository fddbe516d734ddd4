"""Judges a comparison by the rules of a gate."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from recap.config.evaluation.gate import GateConfig, RuleConfig
from recap.config.evaluation.metrics import format_metric
from recap.config.file.layers import read_mapping
from recap.config.file.validate import validate
from recap.errors import ConfigError, Problem
from recap.evaluation.compare import Comparison, format_difference, gain
from recap.text import shorten, suggest


@dataclass(frozen=True)
class Judgement:
    """One condition of a rule on one task."""

    task: str
    metric: str
    condition: str
    """Such as `not worse by 0.001`."""
    actual: str
    passed: bool
    """False also where the metric or its interval is undefined: a gate does not open on missing numbers."""


def load_gate(file: str) -> GateConfig:
    """Raises ConfigError, which lists every problem with its line."""
    problems: list[Problem] = []
    return validate(GateConfig, read_mapping(file, problems, GateConfig), problems)


def judge(gate: GateConfig, comparison: Comparison) -> list[Judgement]:
    """Every condition of every rule. Raises ConfigError for a task or a metric that the comparison does not have."""
    check_tasks(gate, list(comparison.candidate))
    return [
        judgement
        for index, rule in enumerate(gate.rules)
        for task in _tasks(rule, index, comparison)
        for judgement in _judgements(rule, task, comparison)
    ]


def check_tasks(gate: GateConfig, known: Sequence[str]) -> None:
    """Raise ConfigError for a rule on a task that is not `known`."""
    for index, rule in enumerate(gate.rules):
        for task in rule.tasks or []:
            if task not in known:
                raise ConfigError(f"rules.{index}.tasks: unknown task {shorten(repr(task))}. {suggest(task, [*known])}")


def _tasks(rule: RuleConfig, index: int, comparison: Comparison) -> list[str]:
    """The tasks of a rule."""
    tasks = [task for task in rule.tasks or comparison.candidate if rule.metric in comparison.candidate[task]]
    missing = sorted({*(rule.tasks or [])} - {*tasks})
    if missing or not tasks:
        raise ConfigError(
            f"rules.{index}.metric: {rule.metric} was not computed for {', '.join(missing) or 'any task'}; see "
            "which_metrics, and features.user for metrics of lists"
        )
    return tasks


def _judgements(rule: RuleConfig, task: str, comparison: Comparison) -> Iterator[Judgement]:
    value = comparison.candidate[task][rule.metric]
    shown = format_metric(rule.metric, value)
    if rule.at_least is not None:
        yield Judgement(task, rule.metric, f"at least {rule.at_least:g}", shown, value >= rule.at_least)
    if rule.at_most is not None:
        yield Judgement(task, rule.metric, f"at most {rule.at_most:g}", shown, value <= rule.at_most)
    difference = comparison.differences.get(task, {}).get(rule.metric)
    low = math.nan
    actual = "no interval"
    if difference is not None:
        low = min(gain(rule.metric, difference.low), gain(rule.metric, difference.high))
        actual = format_difference(rule.metric, difference)
    if rule.not_worse_by is not None:
        yield Judgement(task, rule.metric, f"not worse by {rule.not_worse_by:g}", actual, low >= -rule.not_worse_by)
    if rule.better_by is not None:
        yield Judgement(task, rule.metric, f"better by {rule.better_by:g}", actual, low > rule.better_by)
