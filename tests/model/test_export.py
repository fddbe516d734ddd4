"""Every scorer exports as one graph over a `Batch`, for any number of rows, with the same results."""

from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from model.golden import TOLERANCE
from model.kinds import CASES, OTHERS, make_batch, make_config, make_fitted, make_ranker
from torch.export import Dim, ExportedProgram, ShapesCollection
from torch.testing import assert_close

from recap.data.batch import Batch
from recap.model.scorer import Scorer, Scores


def make_scorer(case: str) -> Scorer:
    config = make_config(case)
    config.train_data.tasks["like"] = config.train_data.tasks["like"].model_copy(update={"neg_downsampling_rate": 0.1})
    ranker = make_ranker(config)
    with torch.no_grad():
        ranker(make_batch(config, rows=50, seed=3))  # moves the running statistics of BatchNorm
    return Scorer.of(config, ranker, make_fitted(config)).eval()


def make_unlabelled(case: str, rows: int, seed: int = 0) -> Batch:
    return replace(make_batch(make_config(case), rows, seed), labels=None, weights=None, user=None)


def export(scorer: Scorer, batch: Batch) -> ExportedProgram:
    rows, shapes = Dim("rows", min=1, max=100_000), ShapesCollection()
    for tensor in batch.tensors().values():
        shapes[tensor] = {0: rows}
    # Strict: traced by dynamo, which allows no break of the graph.
    return torch.export.export(scorer, (batch,), dynamic_shapes=shapes, strict=True)


FIELDS = [field.name for field in fields(Scores)]
# Every kind of part once; test_ranker.py covers the combinations.
EXPORTED = [
    case for case in CASES if case.startswith("mlp-") or case.endswith(("-share_all", "-share_none")) or case in OTHERS
]


@pytest.mark.parametrize("case", EXPORTED)
def test_the_exported_scorer_agrees_for_any_number_of_rows(case: str) -> None:
    scorer = make_scorer(case)
    program = export(scorer, make_unlabelled(case, rows=7))
    assert program.graph_signature.buffers_to_mutate == {}  # so several threads may share it
    exported = program.module()
    for rows in (1, 2, 7, 40):
        batch = make_unlabelled(case, rows, seed=rows)
        actual, expected = exported(batch), scorer(batch)
        assert isinstance(actual, Scores)
        for name in FIELDS:
            assert getattr(actual, name).shape == ((rows,) if name == "score" else (rows, 2))
            assert_close(getattr(actual, name), getattr(expected, name), **TOLERANCE)


def test_a_saved_and_loaded_program_gives_the_same_results(tmp_path: Path) -> None:
    batch = make_unlabelled("mask_net_parallel-share_all", rows=7)
    program = export(make_scorer("mask_net_parallel-share_all"), batch)
    program.example_inputs = None  # torch.export.save would pickle the batch
    torch.export.save(program, tmp_path / "scorer.pt2")
    loaded = torch.export.load(tmp_path / "scorer.pt2").module()
    actual, expected = loaded(batch), program.module()(batch)
    for name in FIELDS:
        assert torch.equal(getattr(actual, name), getattr(expected, name))
