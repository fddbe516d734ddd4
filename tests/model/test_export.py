"""Every ranker exports whole, for any number of rows, and the program says what the ranker says."""

from pathlib import Path

import pytest
import torch
from model.golden import TOLERANCE
from model.kinds import CASES, OTHERS, make_batch, make_config, make_ranker
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.testing import assert_close

from recap.data.batch import Batch
from recap.model.ranker import Ranker


class OfTensors(nn.Module):
    """A ranker that takes the tensors of a batch: `torch.export` knows no dataclasses."""

    def __init__(self, ranker: Ranker) -> None:
        super().__init__()
        self.ranker = ranker

    def forward(
        self,
        continuous: Tensor,
        binary: Tensor,
        discrete: Tensor,
        vectors: dict[str, Tensor],
        histories: dict[str, Tensor],
    ) -> tuple[Tensor, ...]:
        return tuple(self.ranker(Batch(continuous, binary, discrete, vectors, histories=histories)))


def tensors(batch: Batch) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor], dict[str, Tensor]]:
    return batch.continuous, batch.binary, batch.discrete, dict(batch.vectors), dict(batch.histories)


def exported(ranker: Ranker, batch: Batch) -> ExportedProgram:
    # Strict: traced by dynamo, which allows no break of the graph.
    rows = {0: Dim("rows", min=1, max=100_000)}
    shapes = (rows, rows, rows, dict.fromkeys(batch.vectors, rows), dict.fromkeys(batch.histories, rows))
    return torch.export.export(OfTensors(ranker).eval(), tensors(batch), dynamic_shapes=shapes, strict=True)


# Each kind once: how kinds go together is the shared suite's.
EXPORTED = [
    case for case in CASES if case.startswith("mlp-") or case.endswith(("-share_all", "-share_none")) or case in OTHERS
]


@pytest.mark.parametrize("case", EXPORTED)
def test_the_exported_program_agrees_for_any_number_of_rows(case: str) -> None:
    config = make_config(case)
    ranker = make_ranker(config)
    with torch.no_grad():
        ranker(make_batch(config, rows=50, seed=3))  # moves the running statistics of BatchNorm
    whole = exported(ranker.eval(), make_batch(config, rows=7))
    assert whole.graph_signature.buffers_to_mutate == {}  # so it may serve from several threads
    program = whole.module()
    for rows in (1, 2, 7, 40):
        batch = make_batch(config, rows=rows, seed=rows)
        for found, expected in zip(program(*tensors(batch)), ranker(batch), strict=True):
            assert found.shape == (rows, 2)
            assert_close(found, expected, **TOLERANCE)


def test_a_program_that_is_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    config = make_config("mask_net_parallel-share_all")
    batch = make_batch(config, rows=7)
    program = exported(make_ranker(config).eval(), batch)
    torch.export.save(program, tmp_path / "ranker.pt2")
    loaded = torch.export.load(tmp_path / "ranker.pt2").module()
    for found, expected in zip(loaded(*tensors(batch)), program.module()(*tensors(batch)), strict=True):
        assert torch.equal(found, expected)
