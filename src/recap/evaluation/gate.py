"""Judges a comparison by the rules of a gate."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from recap.config.evaluation.gate import GateConfig, RuleConfig
from recap.config.evaluation.metrics import SCORE_METRICS, format_metric, score_spec_of
from recap.config.file.layers import read_mapping
from recap.config.file.validate import validate
from recap.config.recap import RecapConfig
from recap.errors import ConfigError, Problem
from recap.evaluation.compare import Comparison, format_difference, gain
from recap.evaluation.result import SCORE
from recap.text import shorten, suggest


@dataclass(frozen=True)
class Judgement:
    """One condition of a rule on one task."""

    task: str
    """`SCORE` for the final score."""
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
    check_rules(gate, list(comparison.candidate), list(comparison.score))
    return [
        judgement
        for index, rule in enumerate(gate.rules)
        for task, values in _values(rule, index, comparison).items()
        for judgement in _judgements(rule, task, values[rule.metric], comparison)
    ]


def check_rules(gate: GateConfig, tasks: Sequence[str], of_score: Sequence[str]) -> None:
    """Raise ConfigError for a rule on a task that is none of `tasks`, or a metric of the score not in `of_score`."""
    for index, rule in enumerate(gate.rules):
        for task in rule.tasks or []:
            if task not in tasks:
                raise ConfigError(f"rules.{index}.tasks: unknown task {shorten(repr(task))}. {suggest(task, [*tasks])}")
        if rule.of_score and not of_score:
            raise ConfigError(
                f"rules.{index}.metric: {rule.metric} needs features.user or features.request, and scoring.weights "
                "that are the same in both models"
            )
        if rule.of_score and rule.metric not in of_score:
            known = [name for name in of_score if score_spec_of(name) is not None]
            raise ConfigError(
                f"rules.{index}.metric: {rule.metric} is not computed, because metrics.hit_at lacks its rank. "
                f"{suggest(rule.metric, known)}"
            )


def score_metrics(baseline: RecapConfig, model: RecapConfig) -> list[str]:
    """The metrics of the final score that rules can name in a comparison; empty if it has none."""
    ours, theirs = (
        {task: weight for task, weight in each.scoring.weights.items() if weight} for each in (model, baseline)
    )
    if not ours or ours != theirs or model.lists is None:
        return []
    return [
        name
        for spec in SCORE_METRICS
        for name in ([spec.at(k) for k in model.metrics.hit_at] if spec.at_ranks else [spec.name])
    ]


def _values(rule: RuleConfig, index: int, comparison: Comparison) -> Mapping[str, Mapping[str, float]]:
    """The tasks of a rule, or `SCORE`, each with the metrics of the model."""
    if rule.of_score:
        return {SCORE: comparison.score}
    tasks = [task for task in rule.tasks or comparison.candidate if rule.metric in comparison.candidate[task]]
    missing = sorted({*(rule.tasks or [])} - {*tasks})
    if missing or not tasks:
        raise ConfigError(
            f"rules.{index}.metric: {rule.metric} was not computed for {', '.join(missing) or 'any task'}; see "
            "which_metrics, and features.user for metrics of lists"
        )
    return {task: comparison.candidate[task] for task in tasks}


def _judgements(rule: RuleConfig, task: str, value: float, comparison: Comparison) -> Iterator[Judgement]:
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
