import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recap.model.scorer import EPSILON, ScoreFormula

TASKS = ["like", "share", "report"]
probabilities = st.lists(st.floats(0, 1), min_size=3, max_size=3)
weights = st.lists(st.floats(-1000, 1000), min_size=3, max_size=3)


def score(weight: dict[str, float], *rows: list[float]) -> list[float]:
    return ScoreFormula(weight, TASKS)(torch.tensor(rows, dtype=torch.float64)).tolist()


def test_the_formula_is_the_published_one() -> None:
    weight = {"like": 0.5, "report": -369.0}
    positive, negative = score(weight, [0.8, 0.9, 0.001], [0.1, 0.9, 0.01])
    assert positive == pytest.approx(0.8 * 0.5 - 0.369 + 0.001)
    assert negative == pytest.approx((0.05 - 3.69 + 369.0) / 369.5 * 0.001)


def test_without_weights_every_score_is_zero() -> None:
    assert score({}, [0.1, 0.2, 0.3]) == [0.0]


def test_tasks_are_matched_by_name() -> None:
    assert score({"share": 2.0}, [0.9, 0.25, 0.9]) == [pytest.approx(0.501)]


@given(weights, probabilities, probabilities)
def test_scores_are_not_negative_and_keep_the_order_of_the_weighted_sums(
    weight: list[float], left: list[float], right: list[float]
) -> None:
    formula = ScoreFormula(dict(zip(TASKS, weight, strict=True)), TASKS)
    sums = (torch.tensor([left, right], dtype=torch.float64) @ formula.weights).tolist()
    scores = formula(torch.tensor([left, right], dtype=torch.float64)).tolist()
    assert min(scores) >= 0
    if sums[0] < sums[1]:
        assert scores[0] <= scores[1] + 1e-12
    for total, value in zip(sums, scores, strict=True):
        if total < 0:
            assert value <= EPSILON
