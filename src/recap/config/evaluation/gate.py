"""The gate of `recap compare`: what a model must fulfil to replace another."""

import math
from typing import Annotated

from pydantic import Field

from recap.config.base import BaseConfig, Check, Name, NonNegativeFloat, Problems, RootConfig
from recap.config.evaluation.metrics import METRIC_NAMES, METRICS, SCORE_METRICS, MetricSpec, score_spec_of, spec_of
from recap.text import shorten, suggest


class RuleConfig(BaseConfig):
    """A condition on one metric, of some or of all tasks that have it, or of the final score."""

    metric: Name
    """The name of a metric, as `evaluation.json` has it: `auc`, or `hit_at_3`; of the final score: `ndcg`,
    `engagement_3`, or `uplift_3`."""
    tasks: Annotated[list[Name], Field(min_length=1)] | None = None
    """Optional; default: all tasks that have the metric. Not for metrics of the final score."""
    not_worse_by: NonNegativeFloat | None = None
    """The 95% interval of the difference must lie above a loss of this size. Optional."""
    better_by: NonNegativeFloat | None = None
    """The 95% interval of the difference must lie above a gain of this size. Optional."""
    at_least: float | None = None
    """The lowest value of the metric that is accepted. Optional."""
    at_most: float | None = None
    """The highest value of the metric that is accepted. Optional."""

    def checks(self) -> tuple[Check, ...]:
        return self._is_known, self._names_tasks_once, self._has_a_condition, self._has_a_direction, self._is_not_empty

    @property
    def of_score(self) -> bool:
        """Whether the metric is one of the final score."""
        return score_spec_of(self.metric) is not None

    @property
    def _spec(self) -> MetricSpec | None:
        return score_spec_of(self.metric) or spec_of(self.metric)

    def _is_known(self) -> Problems:
        spec = self._spec
        if spec is None:
            name = next((spec.name for spec in METRICS if self.metric in spec.aliases), None)
            rank = self.metric.rpartition("_")[2]
            at = int(rank) if rank.isdecimal() and len(rank) < 5 else 3
            of_score = [spec.at(at) if spec.at_ranks else spec.name for spec in SCORE_METRICS]
            hint = suggest(self.metric, [*METRIC_NAMES, *of_score]) if name is None else f"Did you mean {name!r}?"
            yield ("metric",), f"unknown metric {shorten(repr(self.metric))}. {hint}"
        elif self.metric == spec.name and (spec.at_ranks or spec.of_fields):
            of = f"a rank, such as {spec.at(3)}" if spec.at_ranks else f"a feature, such as {spec.name}_country"
            yield ("metric",), f"{self.metric} has a value for each of several; add {of}"

    def _names_tasks_once(self) -> Problems:
        if self.of_score and self.tasks is not None:
            yield ("tasks",), f"{self.metric} is a metric of the final score, not of tasks; remove tasks"
        for index, task in enumerate(self.tasks or []):
            if task in (self.tasks or [])[:index]:
                yield ("tasks", index), f"{shorten(task)} is listed twice; remove one"

    def _has_a_condition(self) -> Problems:
        conditions = ("not_worse_by", "better_by", "at_least", "at_most")
        if all(getattr(self, name) is None for name in conditions):
            yield (), f"requires nothing; set one of {', '.join(conditions)}"

    def _has_a_direction(self) -> Problems:
        spec = self._spec
        for name in ("not_worse_by", "better_by"):
            if spec is not None and spec.better is None and getattr(self, name) is not None:
                yield (name,), f"{self.metric} is neither better higher nor better lower; use at_least and at_most"

    def _is_not_empty(self) -> Problems:
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            yield ("at_most",), f"is below at_least, so no value passes: {self.at_most:g} < {self.at_least:g}"
        spec = self._spec
        low, high = spec.range if spec is not None else (-math.inf, math.inf)
        for name, limit in (("at_least", self.at_least), ("at_most", self.at_most)):
            if limit is not None and (limit > high if name == "at_least" else limit < low):
                yield (name,), f"no value passes: {self.metric} is in {low:.4g} to {high:.4g}, found {limit:g}"


class GateConfig(RootConfig):
    """A gate: all its rules must hold."""

    rules: Annotated[list[RuleConfig], Field(min_length=1)]
    """The conditions."""

    def checks(self) -> tuple[Check, ...]:
        return (self._has_no_rule_twice,)

    def _has_no_rule_twice(self) -> Problems:
        for index, rule in enumerate(self.rules):
            if rule in self.rules[:index]:
                yield ("rules", index), f"repeats rules.{self.rules.index(rule)}; remove one"
