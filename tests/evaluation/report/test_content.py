"""What a report is made of: curves of training, the verdict, and the model card."""

import math

import pytest
from evaluation.report.contents import HOSTILE, content

from recap.evaluation.metrics.estimate import Difference
from recap.evaluation.report.card import model_card
from recap.evaluation.report.results import better, change_text, shown, signed
from recap.evaluation.report.training import POINTS, training_curves


@pytest.mark.parametrize("tasks", [1, 50])
def test_curves_of_a_long_training_have_few_points_with_the_first_and_the_last(tasks: int) -> None:
    records = [
        {"step": step, "split": "train", "loss": 1 / step, **{f"loss/{task}": 1 / step for task in range(tasks)}}
        for step in range(1, 5001)
    ]
    records += [{"step": 5000, "split": "validation", "task": str(task), "auc": math.nan} for task in range(tasks)]
    losses = training_curves(records, "validation")["losses"]
    assert len(losses["steps"]) == len(losses["tasks"]["0"]) <= POINTS
    assert (losses["steps"][0], losses["steps"][-1]) == (1, 5000)
    assert sum(map(len, losses["tasks"].values())) <= 3000


def test_learning_rates_that_several_towers_share_are_stored_once() -> None:
    records = [{"step": 1, "split": "train", "rate/backbone": 0.1, "rate/towers/a": 0.2, "rate/towers/b": 0.2}]
    rates = training_curves(records, "validation")["rates"]
    assert rates["series"] == [[0.1], [0.2]]
    assert rates["names"] == {"backbone": 0, "towers/a": 1, "towers/b": 1}


@pytest.mark.parametrize(
    ("metric", "change", "outcome"),
    [
        ("auc", (0.02, 0.01, 0.03), "better"),
        ("log_loss", (0.02, 0.01, 0.03), "worse"),
        ("uplift_10", (-0.02, -0.03, -0.01), "worse"),
        ("auc", (0.02, -0.01, 0.03), "unclear"),
        ("pctr", (0.02, 0.01, 0.03), "unclear"),
    ],
)
def test_a_change_is_better_or_worse_by_the_direction_of_its_metric(
    metric: str, change: tuple[float, float, float], outcome: str
) -> None:
    assert better(metric, Difference(*change, p=0.5, detectable=0.01)) == outcome


def test_numbers_have_signs_except_where_they_round_to_nothing() -> None:
    assert change_text("auc", Difference(-0.01234, -0.02, 0.001, 0.1, 0.01)) == "−0.0123 [−0.0200, +0.0010]"
    assert signed("auc", -0.00001) == "0.0000"
    assert [signed("auc", value) for value in (math.nan, math.inf, -math.inf)] == ["–", "+∞", "−∞"]
    assert [shown("rce", value) for value in (-0.001, -0.0, -12.345)] == ["0.00", "0.00", "−12.35"]
    assert signed("rce", -0.001) == signed("rce", 0.001) == "0.00"


def test_the_model_card_holds_names_as_text() -> None:
    card = model_card(content(2))
    assert HOSTILE not in card
    assert card.splitlines()[0] == r"# run \<script\>alert(1)\</script\>"
    assert r"is\_task\_0" in card
    assert "| watch time | 100,000 | 2.1 [2, 2.2] (-0.2 [-0.3, -0.1]) | 4 |".replace("-", "−") in card
