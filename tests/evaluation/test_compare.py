"""Comparisons say which model is better only where the users show it, and gates open only on such numbers."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recap.errors import ConfigError, InputError
from recap.evaluation.compare import Comparison, compare
from recap.evaluation.gate import judge, load_gate
from recap.evaluation.metrics.estimate import Estimate
from recap.evaluation.result import SCORE, SplitResult

NOISE = np.random.default_rng(0).normal(size=(4, 64))


def result(aucs: Mapping[str, tuple[float, float]], rows: str = "the same", **metrics: float) -> SplitResult:
    """A result whose tasks have the AUC, with an error of its own, and the other metrics without error."""
    estimates = {
        task: {
            "auc": Estimate(value, value + 1e-3 * NOISE[3] + own * NOISE[number]),
            **{name: Estimate(other, np.full(64, other)) for name, other in metrics.items()},
        }
        for number, (task, (value, own)) in enumerate(aucs.items())
    }
    values = {task: {name: item.value for name, item in named.items()} for task, named in estimates.items()}
    return SplitResult(values, estimates=estimates, rows=rows, users=5000)


def against(candidate: Mapping[str, tuple[float, float]], **metrics: float) -> Comparison:
    baseline = dict.fromkeys(candidate, (0.8, 0.0))
    return compare(result(baseline, calibration=1.0, log_loss=0.3), result(candidate, **metrics))


@pytest.mark.parametrize(
    ("candidate", "outcome"),
    [
        ({"a": (0.82, 1e-4), "b": (0.81, 1e-4)}, "better"),
        ({"a": (0.78, 1e-4), "b": (0.79, 1e-4)}, "worse"),
        ({"a": (0.83, 1e-4), "b": (0.79, 1e-4)}, "mixed"),
        ({"a": (0.8002, 1e-4), "b": (0.7999, 1e-4)}, "cannot be told"),
        ({"a": (0.81, 1e-4), "b": (0.80, 5e-2)}, "better"),  # b is too uncertain to tell anything from the mean
    ],
)
def test_the_verdict_follows_the_mean_and_the_tasks_that_moved(
    candidate: dict[str, tuple[float, float]], outcome: str
) -> None:
    comparison = against(candidate)
    assert comparison.verdict.outcome == outcome
    assert comparison.verdict.text.startswith(outcome)
    assert "on 5,000 users" in comparison.verdict.text


def test_errors_that_both_models_share_cancel_out() -> None:
    alone = result({"a": (0.82, 0.0)}).estimates["a"]["auc"]
    difference = against({"a": (0.82, 0.0)}).differences["a"]["auc"]
    assert alone.half_width() > 0.01
    assert difference.low == pytest.approx(0.02)
    assert difference.high == pytest.approx(0.02)


def test_a_comparison_names_the_difference_it_could_show_and_the_users_it_would_take() -> None:
    assert "could show" not in against({"a": (0.8, 0.0)}).verdict.text  # the same model
    text = against({"a": (0.8002, 1e-4)}).verdict.text
    assert "these users could show a difference of 0.00" in text
    assert "times as many" in text


def test_an_infinite_metric_has_no_interval_and_no_warning() -> None:
    without_positives = against({"a": (0.8, 0.0)}, calibration=np.inf).differences["a"]["calibration"]
    assert np.isinf(without_positives.value)
    assert np.isnan(without_positives.low)


def test_only_results_of_the_same_rows_and_of_common_tasks_compare() -> None:
    with pytest.raises(InputError, match="different rows"):
        compare(result({"a": (0.8, 0.0)}), result({"a": (0.8, 0.0)}, rows="others"))
    with pytest.raises(InputError, match="no task in common"):
        compare(result({"a": (0.8, 0.0)}), result({"b": (0.8, 0.0)}))
    with pytest.raises(InputError, match="without intervals"):
        compare(SplitResult({"a": {"auc": 0.8}}), result({"a": (0.8, 0.0)}))
    assert compare(result({"a": (0.8, 0.0)}), result({"a": (0.8, 0.0), "b": (0.7, 0.0)})).left_out == ("b",)


def plain(estimates: Mapping[str, Estimate]) -> SplitResult:
    """A result with these AUCs."""
    of_tasks = {task: {"auc": estimate} for task, estimate in estimates.items()}
    return SplitResult({task: {"auc": each.value} for task, each in estimates.items()}, estimates=of_tasks, users=5000)


def test_equal_models_are_told_apart_as_rarely_as_the_level_says() -> None:
    random = np.random.default_rng(1)
    baseline = plain({str(task): Estimate(0.8, np.full(64, 0.8)) for task in range(8)})
    draws, told = 400, 0
    for noise in random.normal(size=(draws, 8, 64)) * 1e-3:
        candidate = {str(task): Estimate(0.8 + row.mean(), 0.8 - row / 63) for task, row in enumerate(noise)}
        told += compare(baseline, plain(candidate)).verdict.outcome != "cannot be told"
    assert told < draws * 0.085  # 5.5 %, and 2.6 standard errors more


def test_tasks_of_different_users_are_judged_without_a_mean() -> None:
    buckets = {"a": 64, "b": 30}
    other = plain({task: Estimate(0.8, np.full(count, 0.8)) for task, count in buckets.items()})
    one = plain({"a": Estimate(0.82, np.full(64, 0.82)), "b": Estimate(0.8, np.full(30, 0.8))})
    verdict = compare(other, one).verdict
    assert verdict.outcome == "better"
    assert "no mean over tasks" in verdict.text
    assert "a (+0.0200)" in verdict.text


def test_one_more_task_of_the_baseline_does_not_make_its_rows_others() -> None:
    both = replace(result({"a": (0.8, 0.0), "b": (0.8, 0.0)}, rows="ab"), rows_by_task={"a": "1", "b": "2"})
    one = replace(result({"a": (0.82, 1e-4)}, rows="a"), rows_by_task={"a": "1"})
    assert compare(both, one).verdict.outcome == "better"
    with pytest.raises(InputError, match="different rows"):
        compare(both, replace(one, rows_by_task={"a": "3"}))


@pytest.mark.parametrize(("engagement", "compared"), [(0.3, True), (0.4, False)])
def test_scores_are_compared_if_they_weigh_the_labels_alike(engagement: float, compared: bool) -> None:
    def scored(random: float) -> SplitResult:
        one = result({"a": (0.8, 0.0)})
        values = {"ndcg": 0.5, "random_1": random}
        of_score = {name: Estimate(value, np.full(64, value)) for name, value in values.items()}
        return replace(one, score=values, estimates={**one.estimates, SCORE: of_score})

    assert (SCORE in compare(scored(0.3), scored(engagement)).differences) is compared


def gate(folder: Path, text: str) -> Any:
    file = folder / "gate.yaml"
    file.write_text(text)
    return load_gate(str(file))


@pytest.mark.parametrize(
    ("rule", "passed"),
    [
        ("{metric: auc, not_worse_by: 0.003}", [True, True]),
        ("{metric: auc, better_by: 0}", [True, False]),
        ("{metric: auc, tasks: [a], better_by: 0.015}", [True]),
        ("{metric: auc, better_by: 0.03}", [False, False]),
        ("{metric: auc, at_least: 0.81}", [True, False]),
        ("{metric: calibration, at_least: 0.95, at_most: 1.05}", [True, False, True, False]),
        ("{metric: log_loss, better_by: 0.01}", [True, True]),
        ("{metric: log_loss, not_worse_by: 0}", [True, True]),
    ],
)
def test_a_rule_passes_where_the_whole_interval_does(rule: str, passed: list[bool], tmp_path: Path) -> None:
    comparison = against({"a": (0.82, 1e-4), "b": (0.8001, 1e-4)}, calibration=1.1, log_loss=0.28)
    assert [item.passed for item in judge(gate(tmp_path, f"rules: [{rule}]"), comparison)] == passed


def test_a_loss_that_the_interval_cannot_exclude_keeps_the_gate_closed(tmp_path: Path) -> None:
    comparison = against({"a": (0.82, 5e-2)})
    assert not judge(gate(tmp_path, "rules: [{metric: auc, not_worse_by: 0.001}]"), comparison)[0].passed


def test_rules_guard_the_metrics_of_the_final_score(tmp_path: Path) -> None:
    def of_score(value: float) -> SplitResult:
        return replace(
            result({"a": (0.8, 0.0)}),
            score={"ndcg": value},
            estimates={**result({"a": (0.8, 0.0)}).estimates, SCORE: {"ndcg": Estimate(value, value + NOISE[3] / 1e3)}},
        )

    comparison = compare(of_score(0.5), of_score(0.52))
    rules = gate(tmp_path, "rules: [{metric: ndcg, better_by: 0.01}, {metric: ndcg, at_least: 0.53}]")
    assert [(item.task, item.passed) for item in judge(rules, comparison)] == [(SCORE, True), (SCORE, False)]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("rules: []", "rules"),
        ("rules: [{metric: auk, at_least: 1}]", "unknown metric 'auk'.*Did you mean 'auc'"),
        ("rules: [{metric: auc}]", "set one of not_worse_by"),
        ("rules: [{metric: calibration, better_by: 0}]", "use at_least and at_most"),
        ("rules: [{metric: auc, at_least: 0.9, at_most: 0.8}]", "no value passes"),
        ("rules: [{metric: auc, not_worse_by: -1}]", "not_worse_by"),
        ("rule: [{metric: auc, at_least: 1}]", r"gate.yaml:1:1"),
        ("[auc]", "expected a mapping of sections"),
        ("rules: [{metric: roc_auc, at_least: 0}]", "Did you mean 'auc'"),
        (f"rules: [{{metric: {'z' * 500}, at_least: 0}}]", "unknown metric 'zzz.*…. Known"),
        ("rules: [{metric: hit_at, at_least: 0}]", "add a rank, such as hit_at_3"),
        ("rules: [{metric: engagment_5, at_least: 1}]", "Did you mean 'engagement_5'"),
        ("rules: [{metric: uplift, at_least: 0}]", "add a rank, such as uplift_3"),
        ("rules: [{metric: uplift_3, at_least: 2}]", "no value passes"),
        ("rules: [{metric: ndcg, tasks: [a], at_least: 0}]", "of the final score, not of tasks; remove tasks"),
        ("rules: [{metric: field_rce, at_most: 1}]", "add a feature"),
        ("rules: [{metric: auc, at_least: 85}]", "no value passes: auc is in 0 to 1, found 85"),
        ("rules: [{metric: auc, tasks: [a, a], at_least: 0}]", "a is listed twice"),
        ("rules: [{metric: auc, at_least: 0}, {metric: auc, at_least: 0}]", r"rules\.1: repeats rules\.0"),
    ],
)
def test_mistakes_in_a_gate_are_named(text: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=problem):
        gate(tmp_path, text)


@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        ("{metric: auc, tasks: [ab], at_least: 0.5}", "unknown task 'ab'"),
        ("{metric: rce, at_least: 0.5}", "was not computed for any task"),
        ("{metric: ndcg, at_least: 0.5}", r"ndcg needs features.user or .*scoring\.weights"),
        ("{metric: rce, tasks: [a], at_least: 0.5}", "was not computed for a"),
    ],
)
def test_a_gate_on_something_not_evaluated_is_refused(rule: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=problem):
        judge(gate(tmp_path, f"rules: [{rule}]"), against({"a": (0.8, 0.0), "b": (0.8, 0.0)}))
