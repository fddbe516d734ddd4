"""Every featurization against a slow version of its formula; batch renormalisation; analyses."""

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from model.rankers import make_batch, make_ranker
from support import feed_config, feed_values, write_feed
from torch import Tensor
from torch.testing import assert_close

from recap.config.featurization import ClipLog1pAbsConfig, DoubleNormLogConfig, Log1pAbsConfig, ZScoreLogConfig
from recap.config.file.load import config_of
from recap.config.network import BatchNormConfig, LayerNormConfig
from recap.config.recap import RecapConfig
from recap.data.encoding.assets import load_assets
from recap.data.tools.analysis import analyse
from recap.errors import ConfigError, DataError
from recap.model.directory import new_ranker
from recap.model.inputs.featurization import ZScoreLog, build_featurization
from recap.model.layers import BatchRenorm

NUMBERS = st.floats(width=32)
JOINED = torch.tensor([[1.0, -7.0]])


def slowly(value: float, clip: float = math.inf) -> float:
    """sign(x)·log1p|x| of one number; 0 if it is not finite."""
    number = min(max(value, -clip), clip) if math.isfinite(value) else 0.0
    return math.copysign(math.log1p(abs(number)), number)


@given(st.lists(NUMBERS, min_size=1, max_size=5))
def test_log1p_abs_matches_its_formula(values: list[float]) -> None:
    made = build_featurization(Log1pAbsConfig(kind="log1p_abs"), len(values), 2)(torch.tensor([values]), JOINED)
    assert_close(made, torch.tensor([[*map(slowly, values), 1.0, -7.0]]))


@given(st.lists(NUMBERS, min_size=1, max_size=5), st.floats(1e-3, 1e30))
def test_clip_log1p_abs_clamps_before_the_logarithm(values: list[float], clip: float) -> None:
    config = ClipLog1pAbsConfig(kind="clip_log1p_abs", clip_magnitude=clip)
    made = build_featurization(config, len(values), 2)(torch.tensor([values]), JOINED)
    assert_close(made, torch.tensor([[*(slowly(value, clip) for value in values), 1.0, -7.0]]))
    assert (made[:, :-2].abs() <= math.log1p(clip) + 1e-5).all()


@given(st.lists(st.tuples(NUMBERS, st.floats(-9, 9), st.floats(0, 9)), min_size=1, max_size=5), st.floats(0.1, 10))
def test_z_score_log_matches_its_formula(rows: list[tuple[float, float, float]], clip: float) -> None:
    values, means, deviations = zip(*rows, strict=True)
    config = ZScoreLogConfig(kind="z_score_log", analysis="a", clip_magnitude=clip)
    featurization = build_featurization(config, len(rows), 2)
    assert isinstance(featurization, ZScoreLog)
    featurization.set_analysis(torch.tensor(means), torch.tensor(deviations))
    made = featurization(torch.tensor([values]), JOINED)
    # In float32, like the buffers, where a deviation may underflow to 0.
    scores = [
        (slowly(value) - float(np.float32(mean))) / (float(np.float32(deviation)) or 1.0)
        for value, mean, deviation in rows
    ]
    expected = [min(max(score, -clip), clip) for score in scores]
    assert_close(made, torch.tensor([[*expected, 1.0, -7.0]]), atol=1e-4, rtol=1e-3)


def test_double_norm_log_normalises_joined_features_too() -> None:
    config = DoubleNormLogConfig(batch_norm=None, layer_norm=LayerNormConfig())
    made = build_featurization(config, 1, 2)(torch.tensor([[math.e - 1]]), JOINED)
    row = torch.tensor([1.0, 1.0, -7.0])
    expected = (row - row.mean()) / (row.var(unbiased=False) + 1e-3).sqrt()
    assert_close(made[0], expected)


def joining(join: list[str], kind: str = "double_norm_log", **settings: object) -> RecapConfig:
    values = feed_values(Path("feed"), Path("run"))
    values["model"]["featurization"] = {"kind": kind, "join": join, **settings}
    return config_of(values)


@pytest.mark.parametrize(("join", "normed"), [([], 2), (["binary"], 3), (["vector"], 6), (["vector", "binary"], 7)])
def test_join_selects_the_columns_of_the_layer_norm(join: list[str], normed: int) -> None:
    config = joining(join, layer_norm={})
    inputs = make_ranker(config).eval().inputs
    assert inputs.featurization.out_features == normed
    assert ("vector" in dict(inputs.vector_norms.named_children())) is ("vector" not in join)
    batch = make_batch(config)
    made = inputs(batch)
    assert made.shape[1] == inputs.layout.width == 2 + 1 + 4 + 8
    assert_close(made[:, :normed].mean(dim=1), torch.zeros(len(batch)), atol=1e-5, rtol=0)  # LayerNorm's
    if "binary" not in join:
        assert torch.equal(made[:, normed], batch.binary[:, 0])


@pytest.mark.parametrize("kind", ["log1p_abs", "clip_log1p_abs", "double_norm_log"])
def test_without_a_layer_norm_joined_features_are_unchanged(kind: str) -> None:
    config = joining(["vector"], kind)
    inputs, batch = make_ranker(config).eval().inputs, make_batch(config)
    made = inputs(batch)
    assert torch.equal(made[:, 2:6], batch.vectors["vector"])
    assert torch.equal(made[:, 6], batch.binary[:, 0])
    assert dict(inputs.vector_norms.named_children()) == {}


@pytest.mark.parametrize("affine", [True, False, "scale", "shift"])
def test_affine_selects_the_parameters_of_a_layer_norm(affine: bool | str) -> None:
    config = DoubleNormLogConfig.model_validate({"layer_norm": {"affine": affine}})
    norm = build_featurization(config, 1, 2).get_submodule("layer_norm")
    learned = {name for name, parameter in norm.named_parameters() if parameter.requires_grad}
    expected: dict[bool | str, set[str]] = {True: {"weight", "bias"}, "scale": {"weight"}, "shift": {"bias"}}
    assert learned == expected.get(affine, set())
    plain = torch.randn(5, 3)
    assert_close(norm(plain), torch.nn.functional.layer_norm(plain, [3], eps=1e-3))


@pytest.mark.parametrize("join", [["vecor"], ["binary", "binary"]])
def test_an_unknown_or_repeated_join_is_refused(join: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"neither 'binary' nor in features.vectors|listed twice"):
        joining(join)


# Batch renormalisation


def renorm(features: int = 3, *, batches: int = 0) -> BatchRenorm:
    layer = BatchRenorm(BatchNormConfig(affine=False, momentum=0.1), features)
    layer.batches.fill_(batches)
    return layer


def test_batch_renormalisation_starts_as_batch_norm() -> None:
    torch.manual_seed(0)
    rows = torch.randn(50, 3) * 4 + 2
    layer = renorm()
    assert_close(layer(rows), torch.nn.BatchNorm1d(3, affine=False)(rows))
    assert_close(layer.running_mean, 0.1 * rows.mean(dim=0))
    assert_close(layer.running_deviation, 0.9 + 0.1 * rows.std(dim=0, unbiased=False), atol=1e-5, rtol=0)


def test_within_the_bounds_training_and_evaluation_agree() -> None:
    torch.manual_seed(0)
    rows = torch.randn(50, 3) * 1.5 + 0.5
    layer = renorm(batches=100_000)
    expected = layer.eval()(rows)
    assert_close(layer.train()(rows), expected)


def test_far_from_the_running_values_r_and_d_are_clamped() -> None:
    rows = torch.tensor([[0.0], [200.0]])  # mean 100, deviation 100: the bounds are r = 3 and d = 5
    assert_close(renorm(1, batches=100_000)(rows), torch.tensor([[-3.0 + 5], [3.0 + 5]]))


def test_r_and_d_have_no_gradient() -> None:
    torch.manual_seed(0)
    rows, weight = torch.randn(20, 3, requires_grad=True), torch.randn(20, 3)
    layer = renorm(batches=100_000)
    mean, deviation = rows.mean(dim=0), (rows.var(dim=0, unbiased=False) + 1e-5).sqrt()
    expected = torch.autograd.grad(((rows - mean) / deviation * deviation.detach() * weight).sum(), rows)[0]
    assert_close(torch.autograd.grad((layer(rows) * weight).sum(), rows)[0], expected)


# Analyses


def test_an_analysis_covers_all_values_that_are_there_after_the_logarithm(tmp_path: Path) -> None:
    config = feed_config(write_feed(tmp_path), tmp_path / "run")
    table = analyse(config)
    rows = pq.read_table(tmp_path / "train")
    assert table.column("name").to_pylist() == ["age", "followers"]
    for name, mean, deviation in zip(*table.to_pydict().values(), strict=True):
        logs = [slowly(value) for value in rows.column(name).to_pylist() if value is not None and math.isfinite(value)]
        assert mean == pytest.approx(np.mean(logs), rel=1e-6)
        assert deviation == pytest.approx(np.std(logs), rel=1e-6)


WRONG = {
    "no column": (
        pa.table({"name": ["age", "followers"], "mean": [0.0, 0.0]}),
        "exactly one column 'deviation'",
    ),
    "too few": (pa.table({"mean": [0.0], "deviation": [1.0]}), "has 1 rows, but the model reads 2 values"),
    "another column": (
        pa.table({"name": ["followers", "height"], "mean": [0.0, 0.0], "deviation": [1.0, 1.0]}),
        "exactly one row for 'age', a value of the model",
    ),
    "words": (pa.table({"mean": ["a", "b"], "deviation": [1.0, 1.0]}), "must be numbers"),
    "a null": (pa.table({"mean": [0.0, None], "deviation": [1.0, 1.0]}), "row 1 has mean nan and deviation 1"),
    "below 0": (pa.table({"mean": [0.0, 0.0], "deviation": [-1.0, 1.0]}), "the deviation at least 0"),
}


def with_analysis(folder: Path) -> RecapConfig:
    featurization = {"kind": "z_score_log", "analysis": str(folder / "analysis.parquet")}
    return feed_config(folder, folder / "run", model={"featurization": featurization})


@pytest.mark.parametrize("case", WRONG)
def test_an_analysis_that_does_not_fit_is_refused(case: str, tmp_path: Path) -> None:
    config = with_analysis(write_feed(tmp_path))
    table, message = WRONG[case]
    pq.write_table(table, tmp_path / "analysis.parquet")
    with pytest.raises(DataError, match=message):
        new_ranker(config, load_assets(config.features))
    (tmp_path / "analysis.parquet").write_text("not Parquet")
    with pytest.raises(DataError, match="not readable as Parquet"):
        new_ranker(config, load_assets(config.features))
    (tmp_path / "analysis.parquet").unlink()
    with pytest.raises(DataError, match="no such file; write it with 'recap data analysis'"):
        new_ranker(config, load_assets(config.features))


def test_an_analysis_is_matched_by_name_and_may_cover_more(tmp_path: Path) -> None:
    config = with_analysis(write_feed(tmp_path))
    table = pa.table({"name": ["followers", "height", "age"], "mean": [2.0, 9.0, 1.0], "deviation": [4.0, 9.0, 3.0]})
    pq.write_table(table, tmp_path / "analysis.parquet")
    state: dict[str, Tensor] = new_ranker(config, load_assets(config.features)).state_dict()
    assert state["inputs.featurization.means"].tolist() == [1.0, 2.0]
    assert state["inputs.featurization.deviations"].tolist() == [3.0, 4.0]


def test_weights_carry_the_analysis(tmp_path: Path) -> None:
    config = with_analysis(write_feed(tmp_path))
    state: dict[str, Tensor] = new_ranker(config, load_assets(config.features)).state_dict()
    assert_close(state["inputs.featurization.means"], torch.tensor([1.4, 2.1]))
    assert_close(state["inputs.featurization.deviations"], torch.tensor([1.3, 1.9]))
