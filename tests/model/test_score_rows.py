"""Scores depend on the row alone, bit for bit, in every kind of model."""

import pytest
import torch
from model.kinds import CASES
from model.rankers import make_batch, make_config, make_fitted, make_ranker

from recap.model.score_rows import score_rows
from recap.model.scorer import Scorer

DISTINCT = 5
"""Rows that differ; the other rows repeat them."""


@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize("case", CASES)
def test_a_row_has_the_same_scores_in_every_place_of_every_batch(case: str) -> None:
    config = make_config(case)
    scorer = Scorer.of(config, make_ranker(config), make_fitted(config)).eval()
    batch = make_batch(config, rows=DISTINCT)
    alone = [score_rows(scorer, batch.rows(slice(row, row + 1))) for row in range(DISTINCT)]
    for size in (7, 100, 1500):
        rows = torch.randint(0, DISTINCT, (size,), generator=torch.Generator().manual_seed(size))
        scores = score_rows(scorer, batch.rows(rows))
        for name in ("logits", "probabilities", "calibrated_probabilities", "score"):
            expected = torch.cat([getattr(one, name) for one in alone])[rows]
            assert torch.equal(getattr(scores, name), expected), name
    assert torch.get_num_threads() == 3


def test_the_scores_of_rows_are_those_of_the_scorer_to_rounding() -> None:
    config = make_config("mask_net_parallel-share_all")
    scorer, batch = Scorer.of(config, make_ranker(config)).eval(), make_batch(config, rows=70)
    scores, expected = score_rows(scorer, batch), scorer(batch)
    torch.testing.assert_close(scores.logits, expected.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(scores.score, expected.score, rtol=1e-5, atol=1e-5)


def test_no_rows_have_no_scores() -> None:
    config = make_config("mask_net_parallel-share_all")
    scores = score_rows(Scorer.of(config, make_ranker(config)).eval(), make_batch(config, rows=0))
    assert scores.probabilities.shape == (0, len(config.tasks))
    assert scores.score.shape == (0,)
