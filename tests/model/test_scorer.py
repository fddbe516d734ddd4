"""The published score formula, and the path ranker → calibration → score."""

import doctest
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from model.rankers import make_batch, make_config, make_ranker
from support import feed_values
from torch import Tensor, nn

from recap.config.file.load import config_of
from recap.model import scorer
from recap.model.ranker import RankerOutput
from recap.model.scorer import EPSILON, ScoreFormula, Scorer

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


def test_weights_are_matched_by_task_name() -> None:
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


def test_a_scorer_gives_the_rankers_outputs_calibrated_and_scored() -> None:
    config = make_config("mlp-share_all")
    ranker, batch = make_ranker(config).eval(), make_batch(config, rows=5)
    scores, output = Scorer.of(config, ranker)(batch), ranker(batch)
    assert torch.equal(scores.logits, output.logits)
    assert torch.equal(scores.probabilities, output.probabilities)
    assert torch.equal(scores.calibrated_probabilities, output.probabilities)  # nothing was down-sampled
    formula = ScoreFormula(config.scoring.weights, config.tasks)
    assert torch.equal(scores.score, formula(output.probabilities))


class _FixedRanker(nn.Module):
    """Returns the probabilities of the docstring's example, whatever the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.probabilities = nn.Parameter(torch.tensor([[0.8, 0.001], [0.5, 0.2]]), requires_grad=False)

    def forward(self, batch: object) -> RankerOutput:
        logits: Tensor = self.probabilities.logit()
        return RankerOutput(logits, self.probabilities.data)


def test_the_example_in_the_docstring_runs() -> None:
    values = feed_values(Path("feed"), Path("run"))
    tower = {"tower": {"kind": "mlp"}}
    values["model"]["tasks"] = {"like": tower, "report": tower}
    values["train_data"]["tasks"] = {"like": {"neg_downsampling_rate": 0.1}, "report": {}}
    values["scoring"] = {"weights": {"like": 0.5, "report": -369.0}}
    example = {"config": config_of(values), "ranker": _FixedRanker(), "batch": SimpleNamespace()}
    result = doctest.testmod(scorer, extraglobs=example)
    assert result.attempted
    assert not result.failed
