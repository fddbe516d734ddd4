"""Every kind of model part computes the same in an exported program, for hostile inputs and any number of rows."""

from pathlib import Path

import pyarrow as pa
import pytest
import torch
from model.kinds import COMBINED
from model.rankers import make_batch, make_config, make_fitted, make_ranker

from recap.export.formats import FORMATS, Format
from recap.export.parity import compare, describe
from recap.export.program import Program, trace
from recap.model.scorer import Scorer

# One program takes seconds, most of them for what all have.
FAST = ("history_din_normalized", "regressions")


def make_program(case: str) -> Program:
    config = make_config(case)
    task = config.tasks[0]
    if task not in config.regressions:
        sampled = config.train_data.tasks[task].model_copy(update={"neg_downsampling_rate": 0.1})
        config.train_data.tasks[task] = sampled
    ranker = make_ranker(config)
    with torch.no_grad():
        ranker(make_batch(config, rows=50, seed=3))  # moves the running statistics of BatchNorm
    return Program(Scorer.of(config, ranker, make_fitted(config)), config, {"language": pa.array(["en", "ja"])})


def written_as_expected(program: Program, kinds: list[Format], folder: Path) -> None:
    traced = trace(program)
    assert traced.graph_signature.buffers_to_mutate == {}  # so several threads may share it
    for kind in kinds:
        FORMATS[kind].write(program, traced, folder)
        differences = compare(program, FORMATS[kind].load(folder, program.names, 1))
        assert all(each.fits for each in differences), describe(differences)


@pytest.mark.parametrize("case", FAST)
def test_a_torch_program_computes_the_same(case: str, tmp_path: Path) -> None:
    written_as_expected(make_program(case), [Format.TORCH], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("case", COMBINED)
def test_every_kind_computes_the_same_in_torch_and_onnx(case: str, tmp_path: Path) -> None:
    written_as_expected(make_program(case), [Format.TORCH, Format.ONNX], tmp_path)


@pytest.mark.slow
def test_star_and_piecewise_linear_numbers_compute_the_same_in_aoti(tmp_path: Path) -> None:
    """What the model of `many_parts`, which tests compile too, cannot have beside its other parts."""
    written_as_expected(make_program("star_with_jrc"), [Format.AOTI], tmp_path)
