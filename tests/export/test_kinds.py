"""Every kind of model part computes the same in an exported program, for hostile inputs and any number of rows."""

from pathlib import Path

import pyarrow as pa
import pytest
import torch
from model.kinds import BACKBONES, OTHERS, SHARINGS, make_batch, make_config, make_fitted, make_ranker

from recap.export.formats import FORMATS, Format
from recap.export.parity import compare, describe
from recap.export.program import Program, trace
from recap.model.scorer import Scorer

SIMPLER = {
    *("mlp_rates", "dcn", "dlrm", "gdcn", "gdcn_stacked", "final_mlp", "wukong"),
    *("history_pooling_sum", "log1p_abs", "z_score_log", "position_debias"),
}
"""Kinds whose operations another kind has too."""
# Every kind of part once; test_ranker.py covers the combinations.
CASES = [
    *(f"{backbone}-share_all" for backbone in BACKBONES if backbone not in SIMPLER),
    *(f"mlp-{sharing}" for sharing in SHARINGS if sharing != "share_all"),
    "mlp-share_none",
    *(other for other in OTHERS if other not in SIMPLER),
]
FAST = ("history_din_normalized", "regressions")


def make_program(case: str) -> Program:
    config = make_config(case)
    if "like" not in config.regressions:
        config.train_data.tasks["like"] = config.train_data.tasks["like"].model_copy(
            update={"neg_downsampling_rate": 0.1}
        )
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
@pytest.mark.parametrize("case", CASES)
def test_every_kind_computes_the_same_in_torch_and_onnx(case: str, tmp_path: Path) -> None:
    written_as_expected(make_program(case), [Format.TORCH, Format.ONNX], tmp_path)
