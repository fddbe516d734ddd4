"""Weights that reach targets, and Pareto fronts."""

import numpy as np
import pytest
from evaluation.weights.lists import TASKS, WEIGHTS, sample_of

from recap.errors import InputError
from recap.evaluation.weights.pareto import POINTS, pareto
from recap.evaluation.weights.suggest import Target, keeping, suggest


def at_most(text: str) -> Target:
    return Target.parse("--at-most", text, "at most")


def at_least(text: str) -> Target:
    return Target.parse("--at-least", text, "at least")


def test_fewer_reports_cost_the_least_of_all_else() -> None:
    sample = sample_of()
    now = sample.expected(sample.order(WEIGHTS))
    found = suggest(sample, [at_most("report=0.9x")])
    rates = {task.task: task.new_expected for task in found.tasks}
    assert 0.89 * now["report"] < rates["report"] <= 0.9 * now["report"]
    assert {task: found.weights[task] for task in TASKS[:2]} == {task: WEIGHTS[task] for task in TASKS[:2]}
    assert found.weights["report"] < WEIGHTS["report"]
    assert 0 < found.overlap < 1

    def others(weights: dict[str, float]) -> tuple[float, float]:
        expected = sample.expected(sample.order(weights))
        return sum(WEIGHTS[task] * expected[task] for task in TASKS[:2]), expected["report"]

    kept_value, _ = others(dict(found.weights))
    random = np.random.default_rng(0)
    tried = [dict(zip(WEIGHTS, [1.0, *(random.normal(size=2) * [8, 100])], strict=True)) for _ in range(200)]
    rivals = [value for value, reports in map(others, tried) if reports <= 0.9 * now["report"]]
    assert rivals
    assert max(rivals) <= kept_value * (1 + 1e-3)


def test_targets_are_met_together_and_no_more_than_needed() -> None:
    sample = sample_of()
    now = sample.expected(sample.order(WEIGHTS))
    limit = round(0.97 * now["report"], 4)
    found = suggest(sample, [at_most(f"report={limit}"), keeping(sample, "like"), at_least("watch_time=1.5x")])
    rates = {task.task: task.new_expected for task in found.tasks}
    assert rates["report"] <= limit
    assert rates["like"] >= now["like"] * (1 - 1e-9)
    assert rates["watch_time"] == pytest.approx(1.5 * now["watch_time"], rel=0.03)
    assert found.weights["watch_time"] > 0
    assert keeping(sample, "report") == Target("report", "at most", 1.0, relative=True)
    nothing = suggest(sample, [at_most("report=1.1x")])
    assert dict(nothing.weights) == WEIGHTS
    assert nothing.kendall == 1


REFUSED = {
    "no number": (["report=few"], "--at-most: expected TASK=RATE, per 1,000 impressions, or TASK=FACTORx"),
    "no task": (["0.9x"], "found '0.9x'"),
    "an unknown task": (["raport=0.9x"], "unknown task 'raport'. Known: like, "),
    "out of reach": (["report=0.01x"], "is out of reach: a ranking by it alone has "),
    "contradiction": (["report=0.5x", "like=1.4x"], "alone, like has "),
}


@pytest.mark.parametrize(("texts", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_reached_is_refused(texts: list[str], message: str) -> None:
    with pytest.raises(InputError) as error:
        suggest(sample_of(), [*map(at_most, texts[:1]), *map(at_least, texts[1:])])
    assert message in str(error.value)


def test_a_score_without_weights_has_no_ranking_to_start_from() -> None:
    sample = sample_of(weights={})
    for use in (lambda: suggest(sample, [at_most("report=0.9x")]), lambda: pareto(sample, ["like", "report"])):
        with pytest.raises(InputError, match=r"scoring\.weights: no task has a weight"):
            use()


def test_a_front_goes_from_the_best_of_one_task_to_the_best_of_the_other() -> None:
    sample = sample_of()
    front = pareto(sample, ["like", "report"])
    likes, reports = (np.array([point.expected[task] for point in front.points]) for task in front.tasks)
    assert 5 <= len(likes) <= POINTS
    assert (np.diff(likes) < 0).all()
    assert (np.diff(reports) < 0).all()
    assert likes[0] == pytest.approx(sample.expected(sample.order({"like": 1.0}))["like"])
    assert reports[-1] == pytest.approx(sample.expected(sample.order({"report": -1.0}))["report"])
    now = front.current.expected
    assert not ((likes < now["like"]) & (reports > now["report"])).any()
    for tasks in (["like"], ["like", "like"], ["like", "lik"]):
        with pytest.raises(InputError, match=r"expected two different tasks|unknown task 'lik'"):
            pareto(sample, tasks)
